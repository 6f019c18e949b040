"""Steps of a run on the Hugging Face Hub: one commit and one tag, ``step-N``, for each.

A step whose tag is there is done, so the same call goes on where it was cut off; within a step the
Hub's client leaves out what the Hub has already, by hash.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lm.volume import Step, list_steps
from trainer.convert.exporting.export import export

LOSS = "val_loss"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Where to push and as what."""

    repo: str
    """``OWNER/NAME``."""
    format: str
    private: bool
    max_tokens: int
    """Measured for each card."""


def tag_of(step: Step) -> str:
    """Tag of the commit that holds a step."""
    return f"step-{step.number}"


def every_best(run_dir: Path) -> list[Step]:
    """Complete steps, ascending, each with a lower held-out loss than every one before it."""
    kept: list[Step] = []
    for step in list_steps(run_dir):
        loss = step.manifest.details.metrics.get(LOSS)
        if loss is not None and all(loss < one.manifest.details.metrics[LOSS] for one in kept):
            kept.append(step)
    return kept


def plan(steps: Sequence[Step], target: Target) -> Iterator[str]:
    """What a push would do, a line each; nothing is asked of the Hub."""
    kind = "private" if target.private else "public"
    yield f"would create {target.repo} if it is not there ({kind})"
    for step in steps:
        metrics = step.manifest.details.metrics
        loss = f", held-out loss {metrics[LOSS]:.4f}" if LOSS in metrics else ""
        yield f"would push {step.name} as {target.format} and tag it {tag_of(step)}{loss}"


def push(steps: Sequence[Step], target: Target, say: Callable[[str], object]) -> None:
    """Push what is not there yet, and ``say`` what came of each step.

    Raises ``ValueError`` in one line if the Hub cannot be reached or refuses.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            "push needs huggingface-hub; run: pip install 'nestling[import]'"
        ) from error
    if huggingface_hub.get_token() is None:
        raise ValueError("push needs a token of the Hub: set HF_TOKEN, or run: hf auth login")
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(target.repo, private=target.private, exist_ok=True)
        done = {tag.name for tag in api.list_repo_refs(target.repo).tags}
        for step in steps:
            if tag_of(step) in done:
                say(f"{step.name} is there already, as {target.repo}@{tag_of(step)}")
            else:
                say(f"{step.name}: {_push_step(api, step, target)}")
    except Exception as error:  # of its HTTP library, which changes with its versions
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"push to {target.repo} failed: {reason}; repeat it to go on") from error


def _push_step(api: Any, step: Step, target: Target) -> str:
    """Export, upload in one commit, tag; returns where it is."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "export"
        export(step, target.format, folder, max_tokens=target.max_tokens)
        commit = api.upload_folder(
            repo_id=target.repo,
            folder_path=folder,
            commit_message=f"{step.name} as {target.format}",
            delete_patterns=["*.safetensors", "*.gguf", "*.pt", "*.ckpt"],
        )
    api.create_tag(target.repo, tag=tag_of(step), revision=commit.oid, exist_ok=True)
    return f"{target.repo}@{tag_of(step)} ({commit.oid[:8]})"


def print_line(line: str) -> None:
    """To standard output, at once: a push takes a while."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()

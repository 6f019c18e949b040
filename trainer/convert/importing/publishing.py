"""Publishes a model made elsewhere as a step: weights and tokenizer, no training state.

Training that begins in a run whose newest step is an imported step 0 begins at its weights.
"""

import platform
from pathlib import Path
from typing import Literal

import tokenizers
import torch

from lm.huggingface.model import Foreign
from lm.volume import (
    Progress,
    RunLock,
    Step,
    StepDetails,
    list_steps,
    model_files,
    publish,
    run_directory,
    sweep,
)
from trainer.convert.importing.checkpoint import Described
from trainer.convert.importing.source import carries_config, default_run, read_source

Dtype = Literal["float32", "bfloat16", "float16", "source"]
_ORIGIN, _DTYPE = "imported_from", "imported_as"


def import_model(
    source: str,
    volume: Path,
    *,
    run: str | None = None,
    step: int | None = None,
    dtype: Dtype = "float32",
    described: Described | None = None,
) -> Step:
    """Bring a model into the volume.

    Args:
        source: ``hub:OWNER/NAME``, a Hugging Face model directory, a ``.gguf`` file, or a file of
            ``torch.save``.
        volume: made if missing.
        run: ``None`` is the source's own name.
        step: number to publish it as; ``None`` is the source's own, or 0.
        dtype: of the weights on disk; ``source`` keeps what the source has.
        described: what a ``torch.save`` file is said to hold.

    Returns:
        The step; one that an equal call has published before is returned as it is.

    Raises:
        ValueError: the source cannot be had, read or computed, or the step is taken.
        OSError: the volume cannot be written.

    """
    run_dir = run_directory(volume, default_run(source) if run is None else run)
    if step is not None and step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    origin = {_ORIGIN: source, _DTYPE: dtype}
    if carries_config(source):
        existing = _find(run_dir, step or 0, origin)
        if existing is not None:
            return existing
    foreign = read_source(source, described)
    if dtype != "source":
        foreign = foreign.to(getattr(torch, dtype))
    step = foreign.step if step is None else step
    origin |= foreign.origin
    existing = _find(run_dir, step, origin)
    if existing is not None:
        return existing
    with RunLock(run_dir):
        sweep(run_dir)
        files = model_files(foreign.weights, foreign.config, foreign.tokenizer)
        return publish(run_dir, step, files, _details(foreign, origin))


def _find(run_dir: Path, step: int, origin: dict[str, str]) -> Step | None:
    """The step if it is there from the same source; raises ``ValueError`` if from another."""
    for existing in list_steps(run_dir):
        if existing.number == step:
            if origin.items() <= existing.manifest.details.versions.items():
                return existing
            raise ValueError(f"{existing.path} is there already; choose another --run or --step")
    return None


def _details(foreign: Foreign, origin: dict[str, str]) -> StepDetails:
    return StepDetails(
        model_config=foreign.config,
        tokenizer_fingerprint=foreign.tokenizer.fingerprint,
        progress=Progress(micro_step=0, optimizer_step=0, tokens_seen=0),
        metrics=foreign.metrics,
        versions={
            **origin,
            "python": platform.python_version(),
            "tokenizers": tokenizers.__version__,
            "torch": torch.__version__,
        },
    )

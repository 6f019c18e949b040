"""``python -m service compare``: the same prompt continued by several checkpoints, side by side.

Opens the volume itself, reads alone, and needs no running service; one model at a time is in
memory. Each goes through the same checks as one that is served.
"""

import argparse
import dataclasses
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from lm.model.device import pick_device
from lm.sampling import SamplingParams
from lm.volume import Step, VolumeError
from service.engine.request import Finished, GenerationRequest, TokenGenerated
from service.engine.served_model import ServedModel
from service.errors import UnknownModel
from service.models.catalog import Catalog
from service.models.kernels.backend import BackendOptions
from service.models.loading.loader import Loader, LoaderOptions
from service.models.naming import LATEST, candidates
from service.models.refused import CheckpointRefused

MIN_COLUMN = 24
"""Characters; more columns than fit are printed below each other."""
MARGIN = " │ "

EPILOG = """examples:
  python -m service compare --prompt "First Citizen:" --steps 100,500,latest
  python -m service compare --prompt "Once" --steps tiny@50,mine@50,best --temperature 0.8 --seed 7
"""


@dataclasses.dataclass(frozen=True)
class Column:
    """What one checkpoint said."""

    title: str
    text: str


def build_parser() -> argparse.ArgumentParser:
    """Options of ``compare``."""
    parser = argparse.ArgumentParser(
        prog="python -m service compare",
        description="Continue a prompt with several checkpoints, side by side.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prompt", required=True, help="text to continue")
    parser.add_argument(
        "--steps",
        default=LATEST,
        metavar="LIST",
        help="steps of the run, latest, best, or names as run@step, with commas (default: latest)",
    )
    parser.add_argument(
        "--volume", type=Path, default=Path("volume"), metavar="DIR", help="default: ./volume"
    )
    parser.add_argument("--run", help="default: the one with the newest checkpoint")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--temperature", type=float, default=0.0, help="default: 0, greedy")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--device", default="auto", help="default: auto")
    parser.add_argument("--width", type=int, help="columns of the terminal; default: its own")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; raises ``ValueError`` in one line for what makes no sense."""
    call = build_parser().parse_args(arguments)
    catalog = Catalog(call.volume)
    run = call.run or catalog.newest_run()
    sampling = SamplingParams(temperature=call.temperature, seed=call.seed)
    if call.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens must be positive, got {call.max_new_tokens}")
    steps = [find_step(catalog, name, run) for name in call.steps.split(",")]
    loader = Loader(_options(call.device))
    columns = [
        continue_prompt(loader, step, call.prompt, sampling, call.max_new_tokens) for step in steps
    ]
    width = call.width or shutil.get_terminal_size().columns
    sys.stdout.writelines(f"{line}\n" for line in side_by_side(columns, width))
    return 0


def find_step(catalog: Catalog, name: str, run: str | None) -> Step:
    """The step of a name; a number alone is one of the run. Raises ``ValueError``."""
    full = f"{run}@{name}" if name.isdecimal() else name
    try:
        return candidates(catalog, full, run)[0]
    except UnknownModel as error:
        raise ValueError(error.message) from error


def continue_prompt(
    loader: Loader, step: Step, prompt: str, sampling: SamplingParams, max_new_tokens: int
) -> Column:
    """Load a checkpoint and let it go on; one that is refused says why instead."""
    try:
        model = loader.load(step)
    except (VolumeError, CheckpointRefused) as error:
        return Column(step.name, f"refused ({error.reason}): {error}")
    text = prompt + "".join(_generate(model, prompt, sampling, max_new_tokens))
    claim = step.manifest.details.metrics.get("val_bits_per_byte")
    return Column(step.name if claim is None else f"{step.name} · {claim:.3f} bits/byte", text)


def side_by_side(columns: Sequence[Column], width: int) -> Iterator[str]:
    """Lines of a table of texts, as many columns beside each other as fit legibly."""
    fitting = max(1, (width + len(MARGIN)) // (MIN_COLUMN + len(MARGIN)))
    for start in range(0, len(columns), fitting):
        group = columns[start : start + fitting]
        each = max(1, (width - len(MARGIN) * (len(group) - 1)) // len(group))
        if start:
            yield ""
        blocks = [
            [*_wrapped(one.title, each), "─" * each, *_wrapped(one.text, each)] for one in group
        ]
        for row in zip_longest(*blocks, fillvalue=""):
            yield MARGIN.join(cell.ljust(each) for cell in row).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most so many characters, the text's own breaks kept."""
    return [
        line
        for paragraph in text.expandtabs(4).splitlines()
        for line in textwrap.wrap(paragraph, width, drop_whitespace=False) or [""]
    ]


def _generate(
    model: ServedModel, prompt: str, sampling: SamplingParams, max_new_tokens: int
) -> Iterator[str]:
    """Pieces of the answer; raises ``ValueError`` if the prompt does not fit."""
    prompt_ids = model.tokenizer.encode(prompt)
    begin = model.tokenizer.bos_token_id
    if not prompt_ids and begin is not None:
        prompt_ids = [begin]
    if not 0 < len(prompt_ids) < model.max_model_tokens:
        raise ValueError(
            f"a prompt of {len(prompt_ids)} tokens; {model.checkpoint.name} takes 1 to "
            f"{model.max_model_tokens - 1}"
        )
    room = model.max_model_tokens - len(prompt_ids)
    model.engine.submit(
        GenerationRequest(
            request_id="compare",
            prompt_ids=tuple(prompt_ids),
            max_new_tokens=min(max_new_tokens, room),
            sampling=sampling,
        )
    )
    while not model.engine.is_idle:
        for event in model.engine.step():
            if isinstance(event, TokenGenerated | Finished):
                yield event.text


def _options(device: str) -> LoaderOptions:
    """One sequence, in float32: what a checkpoint says should not depend on the machine."""
    return LoaderOptions(
        backend=BackendOptions(
            device=pick_device(device), dtype="float32", num_slots=1, max_step_tokens=256
        ),
        max_model_tokens=None,
        verify_hashes=True,
    )

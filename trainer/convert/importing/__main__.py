"""``python -m trainer import SOURCE --volume DIR``."""

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

from lm.text.tokenizer import Tokenizer
from trainer import options
from trainer.convert.importing.checkpoint import LEFT_BEHIND, Described
from trainer.convert.importing.publishing import Dtype, import_model
from trainer.convert.importing.rotary import Rotary
from trainer.convert.importing.source import carries_config
from trainer.data.tokenizer_source import TRAIN, WEIGHTS, named_tokenizer
from trainer.recipe.recipes import load_recipe, override

EXAMPLES = """\
examples:
  python -m trainer import weights/SmolLM2-135M-Instruct.Q4_1.gguf --run smollm2
  python -m trainer import hub:HuggingFaceTB/SmolLM2-135M --volume ./volume
  python -m trainer import ~/models/mine --dtype bfloat16
  python -m trainer import checkpoint_step_5000.pt --recipe smollm2-135m-untied \\
      --tokenizer ~/models/cosmo2-tokenizer --run untied

A file of torch.save (.pt, .pth, .ckpt) carries neither config nor tokenizer: --recipe gives the one
and, unless --tokenizer does, names the other. Nothing in it is run, and its optimizer state is left
behind. docs/importing.md says which shapes and names are read.
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of ``import``."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer import",
        description="Bring weights from elsewhere into a volume as a step that can be served.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a Hugging Face model directory, hub:OWNER/NAME, or a .gguf, .pt, .pth or .ckpt file",
    )
    options.add_volume(parser)
    parser.add_argument(
        "--run", metavar="NAME", help="directory of the run in the volume (default: SOURCE's name)"
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="number of the step (default: SOURCE's own, else 0)"
    )
    parser.add_argument(
        "--dtype",
        choices=get_args(Dtype),
        default="float32",
        help="of the weights on disk (default: float32)",
    )
    _add_description(parser)
    return parser


def _add_description(parser: argparse.ArgumentParser) -> None:
    """Options that say what a file of ``torch.save`` holds."""
    group = parser.add_argument_group("for .pt, .pth and .ckpt")
    group.add_argument("--recipe", metavar="R", help="the recipe whose model the weights are of")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a value of the recipe, as in model.rope_theta=100000; repeatable",
    )
    group.add_argument(
        "--tokenizer",
        metavar="T",
        help="hub:OWNER/NAME or a path: what the weights were trained with (default: the recipe's)",
    )
    group.add_argument(
        "--rotary",
        choices=get_args(Rotary),
        help="which dimensions of a head turn together (default: by the names of the weights)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Import, and print where to; raises ``ValueError`` or ``OSError`` in one line."""
    call = build_parser().parse_args(arguments)
    step = import_model(
        call.source,
        call.volume,
        run=call.run,
        step=call.step,
        dtype=call.dtype,
        described=_describe(call),
    )
    details = step.manifest.details
    line = f"{step.path}: {step.name}, {details.model_config.num_parameters:,} parameters"
    left_behind = details.versions.get(LEFT_BEHIND)
    sys.stdout.write(f"{line}; left behind: {left_behind}\n" if left_behind else f"{line}\n")
    return 0


def _describe(call: argparse.Namespace) -> Described | None:
    """What the call says of a file that carries no config; ``ValueError`` if it says too much."""
    if call.recipe is None or carries_config(call.source):
        for option in ("recipe", "set", "tokenizer", "rotary"):
            if getattr(call, option):
                raise ValueError(f"--{option} is for a .pt, .pth or .ckpt file with a --recipe")
        return None
    recipe = override(load_recipe(call.recipe), call.set)
    return Described(
        config=recipe.model,
        tokenizer=_tokenizer(call.tokenizer or recipe.tokenizer.source),
        rotary=call.rotary,
    )


def _tokenizer(source: str) -> Tokenizer:
    """A tokenizer that is there already: ids of a stand-in would mean something else."""
    if source in {TRAIN, WEIGHTS}:
        raise ValueError("the recipe names no tokenizer; give the weights' own with --tokenizer")
    try:
        return named_tokenizer(source)
    except ValueError as error:
        raise ValueError(f"{error} (give the weights' own tokenizer with --tokenizer)") from error


if __name__ == "__main__":
    sys.exit(main())

"""``python -m trainer import SOURCE --volume DIR``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from trainer.importing.publishing import Dtype, import_model

EXAMPLES = """\
examples:
  python -m trainer import weights/SmolLM2-135M-Instruct.Q4_1.gguf --run smollm2
  python -m trainer import hub:HuggingFaceTB/SmolLM2-135M --volume ./volume
  python -m trainer import ~/models/mine --dtype bfloat16
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
        help="a Hugging Face model directory, hub:OWNER/NAME, or a .gguf file",
    )
    parser.add_argument(
        "--volume",
        type=Path,
        default=Path("volume"),
        metavar="DIR",
        help="where checkpoints go (default: ./volume)",
    )
    parser.add_argument(
        "--run", metavar="NAME", help="directory of the run in the volume (default: SOURCE's name)"
    )
    parser.add_argument(
        "--step", type=int, default=0, metavar="N", help="number of the step (default: 0)"
    )
    parser.add_argument(
        "--dtype",
        choices=get_args(Dtype),
        default="float32",
        help="of the weights on disk (default: float32)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Import, and print where to; raises ``ValueError`` or ``OSError`` in one line."""
    call = build_parser().parse_args(arguments)
    step = import_model(call.source, call.volume, run=call.run, step=call.step, dtype=call.dtype)
    config = step.manifest.details.model_config
    sys.stdout.write(f"{step.path}: {step.name}, {config.num_parameters:,} parameters\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

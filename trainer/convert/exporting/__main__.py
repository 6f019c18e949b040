"""``python -m trainer export RUN@STEP --format F --output DIR``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer import options

MEASURED_TOKENS = 4096
FORMAT_HELP = {
    "hf": "model directory, float32, for transformers and all that reads its files",
    "fp16": "the same in float16",
    "bf16": "the same in bfloat16",
    "torch": "the dict of a training script: weights, AdamW and schedule states, step, loss",
    "int8": "matrices in int8 (torchao; quantize_dynamic for shapes that are not Llama's)",
    "gguf": "file for llama.cpp, float16",
    "gguf-q8": "file for llama.cpp, int8 by blocks",
}

EXAMPLES = """\
formats:
{formats}

examples:
  python -m trainer export tiny --format hf --output ./tiny-hf
      the newest step; AutoModelForCausalLM.from_pretrained("./tiny-hf") opens it
  python -m trainer export smollm2-135m@best --format fp16 --output ./half
      the step with the lowest held-out loss, at half the size
  python -m trainer export gpt-80m@5000 --format torch --output ./checkpoint --text my.txt
      a given step, measured on a text of your own

What is written is read back with the tool that it is for; size, bits per byte and speed before and
after are printed and kept in its model card, README.md. docs/exporting.md says what each is worth.
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of ``export``."""
    lines = "\n".join(f"  {name:8} {text}" for name, text in FORMAT_HELP.items())
    parser = argparse.ArgumentParser(
        prog="python -m trainer export",
        description="Write a step of the volume as files that other tools open.",
        epilog=EXAMPLES.format(formats=lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("step", metavar="RUN[@STEP]", help="STEP is a number, best or latest")
    options.add_volume(parser)
    parser.add_argument("--format", choices=list(FORMAT_HELP), default="hf", help="default: hf")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="directory to write; must be new"
    )
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="measure on this (default: what the run held out)"
    )
    parser.add_argument(
        "--measure-tokens",
        type=int,
        default=MEASURED_TOKENS,
        metavar="N",
        help=f"of that text; 0 measures nothing (default: {MEASURED_TOKENS})",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, and print what it costs; raises ``ValueError`` or ``OSError`` in one line."""
    call = build_parser().parse_args(arguments)
    if call.measure_tokens < 0:
        raise ValueError(f"--measure-tokens must not be negative, got {call.measure_tokens}")
    from trainer.convert.exporting import export, find_step

    step = find_step(call.volume, call.step)
    measured = export(
        step, call.format, call.output, text=call.text, max_tokens=call.measure_tokens
    )
    sys.stdout.write(f"{call.output}: {step.name} as {call.format}\n")
    sys.stdout.write(f"\n{measured}\n" if measured else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m trainer push RUN@STEP --repo OWNER/NAME``."""

import argparse
from collections.abc import Sequence

from trainer import options
from trainer.convert.exporting.__main__ import FORMAT_HELP, MEASURED_TOKENS

EXAMPLES = """\
examples:
  python -m trainer push tiny@best --repo me/tiny --dry-run
      what would be done; nothing leaves this machine
  python -m trainer push tiny@best --repo me/tiny --format fp16
      one commit with a model card, tagged step-N, in a private repository
  python -m trainer push tiny --every-best --repo me/tiny
      every step of the volume that was the best so far, each with its tag; what is there is left
      alone, so the same command goes on where it was cut off, and adds what has come since

The token is HF_TOKEN, or what `hf auth login` has kept.
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of ``push``."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer push",
        description="Push a step to the Hugging Face Hub, with its model card and a tag.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("step", metavar="RUN[@STEP]", help="STEP is a number, best or latest")
    options.add_volume(parser)
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="made if missing")
    parser.add_argument("--format", choices=list(FORMAT_HELP), default="hf", help="default: hf")
    parser.add_argument(
        "--every-best", action="store_true", help="every step that was the best so far, not one"
    )
    parser.add_argument(
        "--public", action="store_true", help="a repository made anew is public (default: private)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument(
        "--measure-tokens",
        type=int,
        default=MEASURED_TOKENS,
        metavar="N",
        help=f"for the card; 0 measures nothing (default: {MEASURED_TOKENS})",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Push; raises ``ValueError`` or ``OSError`` in one line."""
    call = build_parser().parse_args(arguments)
    if call.repo.count("/") != 1:
        raise ValueError(f"--repo {call.repo!r} is not of the form OWNER/NAME")
    if call.every_best and "@" in call.step:
        raise ValueError("--every-best is about a whole run: leave out @STEP")
    from trainer.convert.exporting.source import find_step
    from trainer.convert.hub.push import Target, every_best, plan, print_line, push

    step = find_step(call.volume, call.step)
    steps = every_best(step.path.parent) if call.every_best else [step]
    if not steps:
        raise ValueError(f"no step of run {step.manifest.run} has a held-out loss to be best by")
    target = Target(
        repo=call.repo,
        format=call.format,
        private=not call.public,
        max_tokens=call.measure_tokens,
    )
    if call.dry_run:
        for line in plan(steps, target):
            print_line(line)
    else:
        push(steps, target, print_line)
    return 0

"""The trainer's command line: what may differ between two calls of one run.

What decides the weights is in the recipe, ``--set`` included; what is here (where, on what, with
how many threads) is not. Nothing heavy is imported, so ``--help`` answers at once.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from lm.machine.cores import usable_cores

BESIDE_SERVICE_NICE = 10

TRAIN_HELP = """\
examples:
  python -m trainer --recipe tiny --volume ./volume
      train; the same command goes on where it stopped, bit for bit
  python -m trainer --recipe tiny --volume ./volume --run mine --set optimizer.lr=1e-3
      another run beside it, with one value of the recipe replaced
  python -m trainer --recipe tiny --volume ./volume --run mine --corpus file:input.txt
      on a text of your own; its last tenth is held out
  python -m trainer --recipe tiny --volume ./volume --extend-steps 50 --lr 1e-4
      50 steps past the recipe's end; repeated, it goes on to the same end
  python -m trainer --recipe smollm2-135m --smoke
      the same path in seconds, with everything scaled down

other commands (each has --help):
  python -m trainer recipes                       list the recipes
  python -m trainer describe --recipe gpt-80m     architecture, parameters and cost
  python -m trainer fit --recipe gpt-80m          the largest micro-batch that a GPU holds
  python -m trainer plot ./volume/tiny            curves of a run, as a PNG
  python -m trainer import SOURCE --volume DIR    bring weights from elsewhere into a volume
  python -m trainer export RUN --output DIR       write a step as files that other tools open
  python -m trainer push RUN --repo OWNER/NAME    put a step on the Hugging Face Hub
  python -m trainer space EXPORT --output DIR     write a Gradio Space around an exported model

Ctrl-C or SIGTERM saves the last step and exits with status 0; a second one exits at once.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """One call of the trainer."""

    recipe: str
    volume: Path
    run: str | None
    overrides: tuple[str, ...]
    corpus: str | None
    device: str
    threads: int | None
    nice: int
    last_step: int | None
    metrics_host: str
    metrics_port: int | None
    tensorboard: bool
    smoke: bool
    extend_steps: int | None
    lr: float | None
    force_recipe: bool
    accept_data: bool


def parse_train(arguments: Sequence[str]) -> TrainOptions:
    """Parse a call that trains; exits with status 2 and one line for a wrong one."""
    parser = train_parser()
    values = parser.parse_args(arguments)
    if values.lr is not None and values.extend_steps is None:
        parser.error("--lr is for --extend-steps; a recipe's own is --set optimizer.lr=…")
    threads, nice = values.threads, values.nice
    if values.beside_service:
        threads = threads or max(1, usable_cores() - 1)
        nice = BESIDE_SERVICE_NICE if nice is None else nice
    return TrainOptions(
        recipe=values.recipe,
        volume=values.volume,
        run=values.run,
        overrides=tuple(values.set),
        corpus=values.corpus,
        device=values.device,
        threads=threads,
        nice=nice or 0,
        last_step=values.steps,
        metrics_host=values.metrics_host,
        metrics_port=values.metrics_port or None,
        tensorboard=values.tensorboard,
        smoke=values.smoke,
        extend_steps=values.extend_steps,
        lr=values.lr,
        force_recipe=values.force_recipe,
        accept_data=values.accept_data,
    )


def train_parser() -> argparse.ArgumentParser:
    """Options of a call that trains."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Train a recipe and publish checkpoints to a volume; goes on where it stopped.",
        epilog=TRAIN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_recipe(parser)
    add_volume(parser)
    parser.add_argument(
        "--run",
        metavar="NAME",
        help="directory of the run in the volume (default: the recipe's name)",
    )
    parser.add_argument(
        "--corpus",
        metavar="SPEC",
        help="train on this instead of the recipe's sources: code, math or file:PATH",
    )
    parser.add_argument(
        "--steps",
        type=_positive,
        metavar="N",
        help="save and stop at step N; the schedule stays the recipe's",
    )
    _add_amendment(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument(
        "--threads",
        type=_positive,
        metavar="N",
        help="threads to compute with (default: all cores); equal bits need equal threads",
    )
    parser.add_argument(
        "--nice", type=int, metavar="N", help="lower the process's priority by N, 0 to 19"
    )
    parser.add_argument(
        "--beside-service",
        action="store_true",
        help=f"leave room for a service on this machine: one core less, nice {BESIDE_SERVICE_NICE}",
    )
    _add_watching(parser)
    return parser


def _add_watching(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics-port",
        type=_port,
        metavar="PORT",
        help="serve the trainer's own /metrics for Prometheus (default: off, as 0)",
    )
    parser.add_argument(
        "--metrics-host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where /metrics listens; 0.0.0.0 in a container (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="also write curves and samples to the run's tensorboard directory",
    )


def describe_parser() -> argparse.ArgumentParser:
    """Options of ``describe``."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer describe",
        description="Print a recipe's architecture, parameters by part, and what training costs.",
    )
    add_recipe(parser)
    return parser


def fit_parser() -> argparse.ArgumentParser:
    """Options of ``fit``."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer fit",
        description="Find the largest micro-batch of a recipe that a GPU holds, by trying.",
    )
    add_recipe(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    return parser


def plot_parser() -> argparse.ArgumentParser:
    """Options of ``plot``."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer plot",
        description="Draw a run's loss, gap, bits per byte, learning rate and throughput.",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="directory of the run")
    parser.add_argument(
        "--output", type=Path, metavar="PNG", help="file to write (default: RUN/curves.png)"
    )
    return parser


def recipes_parser() -> argparse.ArgumentParser:
    """Options of ``recipes``: none."""
    return argparse.ArgumentParser(
        prog="python -m trainer recipes", description="List the recipes that come with nestling."
    )


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Options that name a recipe and change it."""
    parser.add_argument(
        "--recipe",
        default="tiny",
        metavar="R",
        help="name of a recipe, or path of a YAML file (default: tiny)",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="scale the recipe down (steps, sizes, cadences, text) to run through in seconds",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a value of the recipe, as in optimizer.lr=1e-3; repeatable, and last of all",
    )


def _add_amendment(parser: argparse.ArgumentParser) -> None:
    """Options that change what a run was begun as."""
    parser.add_argument(
        "--extend-steps",
        type=_positive,
        metavar="N",
        help="go on to N steps past the recipe's end; the schedule keeps its horizon",
    )
    parser.add_argument(
        "--lr",
        type=_rate,
        metavar="X",
        help="constant learning rate of --extend-steps, needed where the schedule ended at 0",
    )
    parser.add_argument(
        "--force-recipe",
        action="store_true",
        help="go on although the recipe is not what the run was begun with, and keep the new one",
    )
    parser.add_argument(
        "--accept-data",
        action="store_true",
        help="go on although a corpus or a tokenizer's file is not what the run was trained on",
    )


def add_volume(parser: argparse.ArgumentParser) -> None:
    """Option that says where checkpoints go."""
    parser.add_argument(
        "--volume",
        type=Path,
        default=Path("volume"),
        metavar="DIR",
        help="where checkpoints go (default: ./volume)",
    )


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError(f"must be 0 to {2**16 - 1}, got {value}")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value

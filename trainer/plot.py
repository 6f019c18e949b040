"""Draws a run's journal: loss, bits per byte, learning rate and throughput over training time."""

from pathlib import Path
from typing import Any

from trainer.journal import METRICS_FILE, read_lines

Lines = list[dict[str, Any]]


def plot(run_dir: Path, output: Path) -> None:
    """Write a PNG of a run's curves.

    Raises ``ValueError`` if the run has no metrics or matplotlib is not installed.
    """
    lines = read_lines(run_dir / METRICS_FILE)
    if not lines:
        raise ValueError(f"{run_dir / METRICS_FILE} holds no metrics; is {run_dir} a run?")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("plotting needs matplotlib: pip install 'nestling[plot]'") from error
    train = [line for line in lines if line["kind"] == "train"]
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex=True)
    _draw(
        axes[0, 0],
        "loss, nats a token",
        [
            ("training", train, "loss"),
            ("training, average", train, "loss_average"),
            ("held out", evaluations, "validation_loss"),
        ],
    )
    _draw(axes[0, 1], "held-out bits per byte", [("", evaluations, "bits_per_byte")])
    _draw(axes[1, 0], "learning rate", [("", train, "learning_rate")])
    _draw(axes[1, 1], "tokens a second", [("", train, "tokens_per_s")])
    figure.suptitle(run_dir.name)
    figure.savefig(output, dpi=110)


def _draw(axis: Any, title: str, curves: list[tuple[str, Lines, str]]) -> None:
    """Curves of one panel over minutes of training."""
    for label, lines, key in curves:
        minutes = [line["train_seconds"] / 60 for line in lines]
        style = {"alpha": 0.35} if key == "loss" else {}
        marker = "." if "bits_per_byte" in key or key == "validation_loss" else ""
        axis.plot(minutes, [line[key] for line in lines], label=label, marker=marker, **style)
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3)
    if len(curves) > 1:
        axis.legend(fontsize=8)
    axis.set_xlabel("minutes of training")

"""Draws a run's journal over training time: losses, their gap, learning rate, speed and memory."""

from pathlib import Path
from typing import Any

from trainer.report.run_journal import METRICS_FILE, read_lines

Lines = list[dict[str, Any]]


def plot(run_dir: Path, output: Path) -> None:
    """Write a PNG of a run's curves.

    Raises ``ValueError`` if the run has no metrics or matplotlib is not installed.
    """
    lines = [line for line in read_lines(run_dir / METRICS_FILE) if _is_drawn(line)]
    if not lines:
        raise ValueError(f"{run_dir / METRICS_FILE} holds no metrics; is {run_dir} a run?")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("plotting needs matplotlib: pip install 'nestling[plot]'") from error
    train = [line for line in lines if line.get("kind") == "train"]
    evaluations = comparable([line for line in lines if line.get("kind") == "evaluation"])
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    (loss, bits, gap), (rate, speed, memory) = figure.subplots(2, 3, sharex=True)
    _draw(loss, "loss, nats a token", "training", train, "loss", alpha=0.35)
    _draw(loss, "loss, nats a token", "training, average", train, "loss_average")
    _draw(loss, "loss, nats a token", "held out", evaluations, "validation_loss", marker=".")
    loss.legend(fontsize=8)
    _draw(bits, "held-out bits per byte", "", evaluations, "bits_per_byte", marker=".")
    _draw(gap, "held out minus training, nats a token", "", evaluations, "gap", marker=".")
    memorising = [line for line in evaluations if line.get("memorising")]
    if memorising:
        style: dict[str, Any] = {"marker": "o", "linestyle": "", "color": "tab:red"}
        _draw(gap, gap.get_title(), "memorising", memorising, "gap", **style)
        gap.legend(fontsize=8)
    _draw(rate, "learning rate", "", train, "learning_rate")
    _draw(speed, "tokens a second", "", train, "tokens_per_s")
    if any(line.get("share_of_peak") is not None for line in train):
        share = speed.twinx()
        _draw(share, "", "", train, "share_of_peak", unit=0.01, color="tab:orange", alpha=0.5)
        share.set_ylabel("% of the measured peak", fontsize=8)
        share.set_ylim(bottom=0.0)
    _draw(memory, "resident memory, GiB", "", train, "resident_bytes", unit=2**30)
    for axis in (gap, speed, memory):
        axis.axhline(0.0, color="black", linewidth=0.8)
    for axis in (rate, speed, memory):
        axis.set_xlabel("minutes of training")
    figure.suptitle(run_dir.name)
    figure.savefig(output, dpi=110)


def _is_drawn(line: dict[str, Any]) -> bool:
    """Whether a line has a place on the time axis, or needs none."""
    return line.get("kind") not in ("train", "evaluation") or (
        type(line.get("train_seconds")) in (int, float)
    )


def comparable(evaluations: Lines) -> Lines:
    """Evaluations of the same text: without the one of all of it that follows at the last step."""
    return list({line["step"]: line for line in reversed(evaluations)}.values())[::-1]


def _draw(
    axis: Any, title: str, label: str, lines: Lines, key: str, *, unit: float = 1.0, **style: Any
) -> None:
    """One curve over minutes of training; a value that was not measured is left out."""
    points = [
        (line["train_seconds"] / 60, line[key] / unit)
        for line in lines
        if type(line.get(key)) in (int, float)
    ]
    axis.plot([x for x, _ in points], [y for _, y in points], label=label, **style)
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3)

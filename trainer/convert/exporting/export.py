"""Takes one step out of the volume: written beside the target, read back, measured, renamed."""

import os
import shutil
from pathlib import Path

import torch

from lm.volume import Step
from trainer.convert.exporting.card import write_card
from trainer.convert.exporting.formats import FORMATS, before
from trainer.convert.exporting.measure import WINDOW, held_out_text, measure, table, windows
from trainer.convert.exporting.reader import Opened
from trainer.convert.exporting.source import Source, read_source


def export(
    step: Step,
    format_name: str,
    output: Path,
    *,
    text: Path | None = None,
    max_tokens: int,
) -> str:
    """Write a step as a directory in a format; returns the table of before and after.

    Args:
        step: of any run; its bytes are checked against its manifest.
        format_name: one of ``FORMATS``.
        output: must not exist; it appears whole, or not at all.
        text: what to measure on; ``None`` is what the run's recipe holds out.
        max_tokens: of it; 0 measures nothing, though the export is still read back.

    Raises:
        ValueError: the format cannot hold this model, a tool for it is missing, or what was
            written does not read back as it should.
        OSError: the disk is full or not writable.

    """
    kind = FORMATS[format_name]
    if output.exists():
        raise ValueError(f"--output {output} is there already; name another")
    source = read_source(step)
    kind.refuse(source.config)
    draft = output.with_name(f".tmp-{output.name}-{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        kind.write(source, draft)
        opened = kind.read(source, draft)
        size = (draft / kind.weights_file(source)).stat().st_size
        measured = _compare(source, format_name, opened, size, text, max_tokens)
        write_card(source, draft, format_name=format_name, measured=measured)
        _make_readable(draft)
        draft.rename(output)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return measured


def _compare(
    source: Source,
    format_name: str,
    opened: Opened,
    num_bytes: int,
    text: Path | None,
    max_tokens: int,
) -> str:
    """The table and how it came about; empty if nothing is to be measured."""
    if not max_tokens:
        return ""
    content, what = held_out_text(source, text)
    length = min(WINDOW, source.config.max_position_embeddings)
    rows = windows(source.tokenizer, content, max_tokens, length)
    if not rows:
        raise ValueError(f"nothing to measure on: {what} is too short")
    full_bytes = 4 * source.config.num_parameters
    first, scored = measure("float32", before(source), full_bytes, rows, source.tokenizer)
    second, _ = measure(format_name, opened, num_bytes, rows, source.tokenizer, scored)
    how = (
        f"On {sum(row.numel() for row in rows):,} tokens of {what}; speed is that of one greedy "
        f"sequence on a CPU, {torch.get_num_threads()} threads."
    )
    return f"{table([first, second])}\n\n{how}"


def _make_readable(directory: Path) -> None:
    """Files for every user, as in the volume; libraries write some of theirs for one alone."""
    for path in directory.iterdir():
        path.chmod(0o644)

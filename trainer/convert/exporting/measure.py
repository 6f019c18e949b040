"""What an export costs and keeps: size, bits per byte, agreement and speed, before and after.

Everything is measured on the same tokens of the same text. Before is the step itself in float32, in
transformers where it has a class, else in nestling; after is the file in the tool that it is for.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.text.tokenizer import Tokenizer
from trainer.convert.exporting.reader import Opened
from trainer.convert.exporting.source import Source, stand_in_recipe
from trainer.data.corpora import open_corpus

WINDOW = 256
"""Tokens that are scored together."""
NEW_TOKENS, REPEATS = 32, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One row of the table."""

    name: str
    tool: str
    num_bytes: int
    """Of the weights' file."""
    bits_per_byte: float
    agreement: float
    """Share of positions at which the likeliest next token is that of the row before."""
    tokens_per_s: float | None
    """Greedy, one sequence."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """A model's predictions of a text."""

    bits_per_byte: float
    likeliest: Tensor
    """Token ids, int64."""


def held_out_text(source: Source, path: Path | None) -> tuple[str, str]:
    """A text to measure on, and what it is: a file, or what the run's recipe holds out.

    Raises ``ValueError`` if it cannot be had.
    """
    if path is not None:
        try:
            return path.read_text("utf-8"), path.name
        except (OSError, ValueError) as error:
            raise ValueError(f"--text {path}: {error}") from error
    recipe = source.recipe or stand_in_recipe()
    texts = [document for one in recipe.sources for document in open_corpus(one).validation]
    return "\n".join(texts), f"the text that recipe {recipe.name} holds out"


def windows(tokenizer: Tokenizer, text: str, max_tokens: int, length: int) -> list[Tensor]:
    """Rows of token ids, int64 [1, T], of the beginning of a text."""
    head = text[: 16 * max_tokens]  # a token is rarely longer, and encoding all would take a while
    token_ids = torch.tensor(tokenizer.encode(head)[:max_tokens])
    starts = range(0, len(token_ids) - 1, length)
    return [token_ids[None, start : start + length] for start in starts]


@torch.inference_mode()
def score(opened: Opened, rows: Sequence[Tensor], tokenizer: Tokenizer) -> Scored:
    """How well a model predicts the rows; raises ``ValueError`` if its numbers are not finite."""
    nats, num_bytes, likeliest = 0.0, 0, []
    for row in rows:
        logits = opened.logits(row)[0, :-1].float()
        nats += F.cross_entropy(logits, row[0, 1:], reduction="sum").item()
        num_bytes += sum(len(tokenizer.bytes_of(token_id)) for token_id in row[0, 1:].tolist())
        likeliest.append(logits.argmax(-1))
    if not math.isfinite(nats):
        raise ValueError(f"read back with {opened.tool}, the model's numbers are not finite")
    return Scored(nats / math.log(2) / max(num_bytes, 1), torch.cat(likeliest))


def tokens_per_s(opened: Opened, prompt_ids: Sequence[int]) -> float | None:
    """Tokens a second of one greedy sequence, the median of some; ``None`` where it cannot."""
    if opened.generate is None:
        return None
    opened.generate(prompt_ids, 2)
    rates = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        made = opened.generate(prompt_ids, NEW_TOKENS)
        rates.append(made / (time.perf_counter() - started))
    return statistics.median(rates)


def measure(
    name: str,
    opened: Opened,
    num_bytes: int,
    rows: Sequence[Tensor],
    tokenizer: Tokenizer,
    before: Scored | None = None,
) -> tuple[Measured, Scored]:
    """A row of the table, and the predictions that the next row is compared with."""
    scored = score(opened, rows, tokenizer)
    same = 1.0 if before is None else (scored.likeliest == before.likeliest).float().mean().item()
    prompt_ids = rows[0][0, : min(16, rows[0].shape[1] // 2)].tolist()
    return (
        Measured(
            name=name,
            tool=opened.tool,
            num_bytes=num_bytes,
            bits_per_byte=scored.bits_per_byte,
            agreement=same,
            tokens_per_s=tokens_per_s(opened, prompt_ids),
        ),
        scored,
    )


def table(rows: Sequence[Measured]) -> str:
    """The rows in Markdown, aligned, sizes beside the first row's."""
    lines = [
        "| model | read with | MB | size | bits/byte | same next token | tokens/s |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        speed = "" if row.tokens_per_s is None else f"{row.tokens_per_s:,.1f}"
        lines.append(
            f"| {row.name} | {row.tool} | {row.num_bytes / 1e6:,.1f} "
            f"| {row.num_bytes / rows[0].num_bytes:.0%} | {row.bits_per_byte:.4f} "
            f"| {row.agreement:.1%} | {speed} |"
        )
    return "\n".join(lines)

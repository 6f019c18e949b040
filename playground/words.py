"""What is written under and beside answers."""

import html
from collections.abc import Mapping, Sequence
from typing import Any


def ending(event: Mapping[str, Any]) -> str:
    """Speed, wait, length and provenance of an answer, from its last event, in one line."""
    timings, usage = event["timings"], event["usage"]
    ttft, total = timings["ttft_s"] or 0.0, timings["total_s"]
    made = usage["completion_tokens"]
    decoding = total - ttft
    rate = f"{(made - 1) / decoding:,.0f} tokens/s · " if made > 1 and decoding > 0 else ""
    return (
        f"{rate}first token after {1000 * ttft:,.0f} ms · {made} tokens · "
        f"waited {1000 * (timings['queue_s'] or 0.0):,.0f} ms · seed {event['seed']} · "
        f"`{event['checkpoint']['name']}` · {event['finish_reason']}"
    )


def problem(error: Exception) -> str:
    """An error, marked as one."""
    return f"⚠️ {error}"


def side_by_side(texts: Mapping[str, str]) -> str:
    """The same prompt as several checkpoints continue it, in columns that wrap on a phone."""
    cards = "".join(
        f'<section class="card"><h3>{html.escape(name)}</h3><p>{html.escape(text)}</p></section>'
        for name, text in texts.items()
    )
    return f'<div class="cards">{cards}</div>'


def samples(lines: Sequence[Mapping[str, Any]]) -> str:
    """Samples of a run, the newest first."""
    if not lines:
        return "<p>No samples yet.</p>"
    cards = "".join(
        f'<section class="card"><h3>step {line["step"]:,}</h3><p>'
        f"<b>{html.escape(line['prompt'])}</b>{html.escape(line['text'])}</p></section>"
        for line in sorted(lines, key=lambda line: -line["step"])
    )
    return f'<div class="cards">{cards}</div>'

"""What is written under and beside answers."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from playground.timing import Pace


def answered(event: Mapping[str, Any]) -> str:
    """The line under an answer of ``POST /generate``, from its last event."""
    timings = event["timings"]
    pace = Pace(
        num_tokens=event["usage"]["completion_tokens"],
        ttft_s=timings["ttft_s"],
        total_s=timings["total_s"],
    )
    waited = f"waited {1000 * (timings['queue_s'] or 0.0):,.0f} ms"
    facts = (waited, f"seed {event['seed']}", f"`{event['checkpoint']['name']}`")
    return ending(pace, *facts, event["finish_reason"])


def ending(pace: Pace, *facts: str) -> str:
    """Speed, time to the first token and length of an answer, and what else is known of it."""
    speed = [] if pace.tokens_per_s is None else [f"{pace.tokens_per_s:,.0f} tokens/s"]
    first = [] if pace.ttft_s is None else [f"first token after {1000 * pace.ttft_s:,.0f} ms"]
    return " · ".join([*speed, *first, f"{pace.num_tokens} tokens", *facts])


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

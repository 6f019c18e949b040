"""Loss curves as SVG: it takes the page's own colours, dark or light, and fits any width."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, MARGIN = 720, 300, 44
Point = tuple[float, float]


def curves(history: Mapping[str, Any], checkpoints: Sequence[Mapping[str, Any]]) -> str:
    """Training and held-out loss by step, with a mark where a checkpoint took over or was refused.

    Args:
        history: answer of ``GET /runs/{run}/history``.
        checkpoints: of ``GET /checkpoints``, those of the run.

    """
    train = [(p["step"], p["loss"]) for p in history["training"] if p["loss"] is not None]
    held_out = [(p["step"], p["loss"]) for p in history["evaluations"] if p["loss"] is not None]
    points = train + held_out
    if not points:
        return "<p>Nothing is measured yet.</p>"
    refused = [one for one in checkpoints if one["status"] == "refused"]
    frame = _Frame(points)
    marks = "".join(
        frame.mark(served["step"], "swap", f"{served['name']} took over")
        for served in history["served"]
    ) + "".join(
        frame.mark(one["step"], "refusal", f"{one['name']} refused: {one['reason']}")
        for one in refused
    )
    return (
        f'<svg class="curves" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="loss by step">{frame.axes()}{marks}'
        f"{frame.line(train, 'train')}{frame.line(held_out, 'held-out')}</svg>"
        '<p class="legend"><span class="train">training loss</span> '
        '<span class="held-out">held-out loss</span> '
        '<span class="swap">took over</span> <span class="refusal">refused</span></p>'
    )


class _Frame:
    """From steps and losses to places in the picture."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._last = max(1.0, *(step for step, _ in points))
        losses = [loss for _, loss in points]
        self._low, self._high = min(losses), max(*losses, min(losses) + 1e-6)

    def place(self, step: float, loss: float) -> Point:
        share = (loss - self._low) / (self._high - self._low)
        inner = HEIGHT - 2 * MARGIN
        return (
            MARGIN + (WIDTH - 2 * MARGIN) * min(step / self._last, 1.0),
            HEIGHT - MARGIN - inner * share,
        )

    def line(self, points: Sequence[Point], kind: str) -> str:
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.place(*point) for point in points))
        return f'<polyline class="{kind}" points="{places}"/>'

    def mark(self, step: float, kind: str, title: str) -> str:
        x, _ = self.place(step, self._low)
        return (
            f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{MARGIN}" y2="{HEIGHT - MARGIN}">'
            f"<title>{html.escape(title)}</title></line>"
        )

    def axes(self) -> str:
        bottom = HEIGHT - MARGIN
        return (
            f'<text x="4" y="{bottom}">{self._low:.2f}</text>'
            f'<text x="4" y="{MARGIN + 4}">{self._high:.2f}</text>'
            f'<text x="{MARGIN}" y="{HEIGHT - 16}">0</text>'
            f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 16}" text-anchor="end">'
            f"step {self._last:,.0f}</text>"
            f'<line class="axis" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{bottom}" y2="{bottom}"/>'
        )

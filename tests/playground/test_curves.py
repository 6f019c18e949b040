import xml.etree.ElementTree as ET
from typing import Any

from playground.curves import HEIGHT, MARGIN, WIDTH, curves

HISTORY: dict[str, Any] = {
    "training": [{"step": 0, "loss": 8.0}, {"step": 50, "loss": None}, {"step": 100, "loss": 4.0}],
    "evaluations": [{"step": 50, "loss": 6.0}, {"step": 100, "loss": 5.0}],
    "served": [{"name": "tiny@50", "step": 50}],
}
REFUSED = {"status": "refused", "step": 100, "name": "tiny@100", "reason": "<memorising>"}


def svg(page: str) -> ET.Element:
    return ET.fromstring(page[: page.index("</svg>") + len("</svg>")])


def test_losses_are_placed_by_step_and_value() -> None:
    train, held_out = svg(curves(HISTORY, [])).findall("polyline")
    right, bottom = WIDTH - MARGIN, HEIGHT - MARGIN
    assert train.get("points") == f"{MARGIN}.0,{MARGIN}.0 {right}.0,{bottom}.0"
    assert held_out.get("class") == "held-out"
    (x, _), _ = (point.split(",") for point in (held_out.get("points") or "").split())
    assert float(x) == WIDTH / 2


def test_swaps_and_refusals_are_marked_with_what_they_were() -> None:
    available = {"status": "available", "step": 50, "name": "tiny@50", "reason": None}
    lines = svg(curves(HISTORY, [available, REFUSED])).findall("line")
    marks = {line.get("class"): line.findtext("title") for line in lines if len(line)}
    assert marks == {
        "swap": "tiny@50 took over",
        "refusal": "tiny@100 refused: <memorising>",
    }


def test_a_run_without_figures_says_so() -> None:
    empty: dict[str, Any] = {"training": [], "evaluations": [], "served": []}
    assert curves(empty, []) == "<p>Nothing is measured yet.</p>"


def test_a_single_figure_can_be_drawn() -> None:
    one = {"training": [{"step": 0, "loss": 2.0}], "evaluations": [], "served": []}
    assert svg(curves(one, [])).find("polyline") is not None

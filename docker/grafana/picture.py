"""Draws the dashboard's panels from a running Prometheus, since not every place has a Grafana.

``python docker/grafana/picture.py http://127.0.0.1:9090 docs/images/dashboard.png --minutes 10``
asks what Grafana would ask and draws it with matplotlib: the same queries and data, another look.
"""

import argparse
import json
import re
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

DASHBOARD = Path(__file__).parent / "dashboards" / "nestling.json"
POINTS = 200
RATE_INTERVAL = "20s"
"""Four scrapes, as Grafana takes it."""
UNITS = {"s": "s", "reqps": "a second", "percentunit": "share", "bytes": "bytes"}
TITLE_CELLS = 2
"""Above Grafana's grid."""


def expand(expression: str) -> str:
    """A query as Grafana would send it."""
    return expression.replace("$__rate_interval", RATE_INTERVAL)


def legend(template: str, labels: dict[str, str]) -> str:
    """A series' name: ``{{outcome}}`` is replaced by the label."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), template)


class Source:
    """Range queries of one Prometheus over one stretch of time."""

    def __init__(self, url: str, minutes: float) -> None:
        self._url = url
        self.minutes = minutes
        self._end = time.time()
        self._start = self._end - 60 * minutes

    def series(self, expression: str) -> list[tuple[dict[str, str], np.ndarray, np.ndarray]]:
        """Labels, minutes before the end, and values of every series."""
        step = (self._end - self._start) / POINTS
        ask = {"query": expand(expression), "start": self._start, "end": self._end, "step": step}
        url = f"{self._url}/api/v1/query_range?{urllib.parse.urlencode(ask)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            result = json.load(answer)["data"]["result"]
        found = []
        for one in result:
            moments, values = np.array(one["values"], dtype=float).T
            found.append((one["metric"], (moments - self._end) / 60, values))
        return found


def draw(panel: dict[str, Any], axes: Any, source: Source) -> None:
    """One panel: lines, a heatmap, or the last value in large."""
    unit = UNITS.get(panel["fieldConfig"]["defaults"].get("unit"))
    axes.set_title(panel["title"] + (f" ({unit})" if unit else ""), fontsize=8)
    axes.tick_params(labelsize=6)
    found = [
        (legend(target["legendFormat"], labels), moments, values)
        for target in panel["targets"]
        for labels, moments, values in source.series(target["expr"])
    ]
    if panel["type"] == "stat":
        axes.axis("off")
        last = [f"{values[-1]:.4g}" for _, _, values in found]
        if len(found) > 1:
            last = [f"{name}: {value}" for (name, _, _), value in zip(found, last, strict=True)]
        size = 15 if len(found) == 1 else 8
        axes.text(0.5, 0.45, "\n".join(last), ha="center", va="center", fontsize=size)
        return
    if panel["type"] == "heatmap":
        draw_heatmap(found, axes)
    else:
        for name, moments, values in found:
            axes.plot(moments, values, linewidth=0.9, label=name)
        axes.legend(fontsize=5, loc="upper left")
    axes.set_xlim(-source.minutes, 0)


def draw_heatmap(found: list[tuple[str, np.ndarray, np.ndarray]], axes: Any) -> None:
    """Observations by bucket, from cumulative counts; buckets that nothing fell into left out."""
    edges = sorted(found, key=lambda one: float(one[0]))
    cumulative = np.array([values for _, _, values in edges])
    counts = np.diff(cumulative, axis=0, prepend=0)
    used = counts.max(axis=1) > 0
    axes.imshow(
        counts[used],
        aspect="auto",
        origin="lower",
        cmap="Oranges",
        extent=(edges[0][1][0], edges[0][1][-1], 0, used.sum()),
    )
    names = [name for (name, _, _), is_used in zip(edges, used, strict=True) if is_used]
    axes.set_yticks(np.arange(len(names)) + 0.5, [f"≤ {name} s" for name in names], fontsize=5)


def place(panel: dict[str, Any], height: int) -> tuple[float, float, float, float]:
    """Where a panel stands in the figure, as Grafana's grid of 24 columns says."""
    grid = panel["gridPos"]
    left, right, below, above = 0.7, 0.2, 1.1, 1.3  # for ticks and the title, in cells
    return (
        (grid["x"] + left) / 24,
        (height - grid["y"] - grid["h"] + below) / height,
        (grid["w"] - left - right) / 24,
        max(grid["h"] - below - above, 0.1) / height,
    )


def main() -> None:
    """Draw all panels where Grafana has them."""
    parser = argparse.ArgumentParser(description="Draw the dashboard from a running Prometheus.")
    parser.add_argument("url")
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=10, help="how far back (default: 10)")
    call = parser.parse_args()
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    source = Source(call.url, call.minutes)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) + TITLE_CELLS
    figure = plt.figure(figsize=(14, height * 0.2))
    figure.text(
        0.5,
        1 - 1 / height,
        "The dashboard's queries on real data, drawn by matplotlib (no Grafana); "
        "minutes before the end",
        ha="center",
        va="center",
        fontsize=10,
    )
    for panel in panels:
        panel["gridPos"]["y"] += TITLE_CELLS
        if panel["type"] == "row":
            middle = 1 - (panel["gridPos"]["y"] + 0.5) / height
            figure.text(0.005, middle, panel["title"], fontsize=11, weight="bold", va="center")
        else:
            draw(panel, figure.add_axes(place(panel, height)), source)
    figure.savefig(call.output, dpi=100)


if __name__ == "__main__":
    main()

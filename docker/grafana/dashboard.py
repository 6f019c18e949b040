"""Grafana's dashboard of a service and its trainer, as a table of panels.

``python docker/grafana/dashboard.py`` writes ``dashboards/nestling.json``, which compose and
Kubernetes mount; a test holds that it is current.
"""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any, Literal

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as board
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

OUTPUT = Path(__file__).parent / "dashboards" / "nestling.json"
DATASOURCE = models.DataSourceRef("prometheus", "prometheus")
RATE = "$__rate_interval"
QUANTILES = (0.5, 0.95, 0.99)
Kind = Literal["lines", "stack", "heatmap", "stat"]


@dataclasses.dataclass(frozen=True)
class Panel:
    """What one panel shows."""

    title: str
    queries: dict[str, str]
    """PromQL by legend."""
    unit: str = "short"
    kind: Kind = "lines"
    width: int = 8
    """Of 24."""
    text: str = ""


def quantiles(name: str) -> dict[str, str]:
    """Median, 95th and 99th percentile of a histogram."""
    return {
        f"p{quantile * 100:.0f}": f"histogram_quantile({quantile}, "
        f"sum by (le) (rate(nestling_{name}_bucket[{RATE}])))"
        for quantile in QUANTILES
    }


def distribution(name: str) -> dict[str, str]:
    """How many observations fell into each bucket."""
    return {"{{le}}": f"sum by (le) (increase(nestling_{name}_bucket[{RATE}]))"}


def mean(name: str) -> str:
    """Mean of a histogram's observations."""
    return f"sum(rate(nestling_{name}_sum[{RATE}])) / sum(rate(nestling_{name}_count[{RATE}]))"


def rate(name: str, by: str = "") -> str:
    """Of a counter, a second."""
    return f"sum{f' by ({by})' if by else ''} (rate(nestling_{name}[{RATE}]))"


FAILED = f'sum(rate(nestling_requests_total{{outcome=~"error|timeout"}}[{RATE}]))'
ROWS: dict[str, list[Panel]] = {
    "Service": [
        Panel("Up", {"{{job}} {{instance}}": "up"}, kind="stat", width=4),
        Panel(
            "Served step",
            {
                "{{run}}": "max by (run) (nestling_checkpoint_info * on (instance) "
                "group_left () nestling_checkpoint_step)"
            },
            kind="stat",
            width=4,
        ),
        Panel("Checkpoint age", {"age": "max(nestling_checkpoint_age_seconds)"}, "s", "stat", 4),
        Panel(
            "Tokens a second", {"generated": rate("generation_tokens_total")}, "short", "stat", 4
        ),
        Panel(
            "Failing",
            {"share": f"{FAILED} / {rate('requests_total')}"},
            "percentunit",
            "stat",
            4,
            "Accepted requests that end in an error or a timeout.",
        ),
        Panel("Waiting", {"waiting": "sum(nestling_num_requests_waiting)"}, "short", "stat", 4),
        Panel(
            "Time to first token",
            quantiles("time_to_first_token_seconds"),
            "s",
            text="From arrival to the first token.",
        ),
        Panel(
            "Inter-token latency",
            quantiles("inter_token_latency_seconds"),
            "s",
            text="Between two tokens of a stream.",
        ),
        Panel("Whole requests", quantiles("e2e_request_latency_seconds"), "s"),
        Panel("Time to first token", distribution("time_to_first_token_seconds"), "s", "heatmap"),
        Panel("Inter-token latency", distribution("inter_token_latency_seconds"), "s", "heatmap"),
        Panel("Whole requests", distribution("e2e_request_latency_seconds"), "s", "heatmap"),
        Panel(
            "Requests by outcome",
            {"{{outcome}}": rate("requests_total", "outcome")},
            "reqps",
            "stack",
            text="Accepted requests, by how they ended.",
        ),
        Panel(
            "Refused requests",
            {"{{reason}}": rate("admission_rejections_total", "reason")},
            "reqps",
            "stack",
        ),
        Panel(
            "Tokens",
            {"generated": rate("generation_tokens_total"), "prompts": rate("prompt_tokens_total")},
            "short",
            text="Tokens a second.",
        ),
    ],
    "Engine": [
        Panel(
            "Requests",
            {
                "running": "sum(nestling_num_requests_running)",
                "waiting": "sum(nestling_num_requests_waiting)",
            },
        ),
        Panel("Batch", {"mean sequences in a step": mean("batch_size")} | quantiles("batch_size")),
        Panel("Cache in use", {"{{instance}}": "nestling_kv_cache_usage_ratio"}, "percentunit"),
        Panel(
            "Where time goes (mean)",
            {
                "queue": mean("request_queue_time_seconds"),
                "prefill": mean("request_prefill_time_seconds"),
                "decode": mean("request_decode_time_seconds"),
            },
            "s",
            "stack",
        ),
        Panel("Queue", quantiles("request_queue_time_seconds"), "s"),
        Panel(
            "Prompt tokens from the prefix cache",
            {"share": f"{rate('prefix_cache_hits_total')} / {rate('prefix_cache_queries_total')}"},
            "percentunit",
        ),
        Panel(
            "Length of requests (mean)",
            {
                "prompt": mean("request_prompt_tokens"),
                "generated": mean("request_generation_tokens"),
            },
        ),
    ],
    "Volume": [
        Panel(
            "Step",
            {
                "published": "max(nestling_trainer_checkpoint_step)",
                "served": "max(nestling_checkpoint_step)",
            },
        ),
        Panel("Age of what is served", {"{{instance}}": "nestling_checkpoint_age_seconds"}, "s"),
        Panel(
            "Refused checkpoints",
            {"{{reason}}": "sum by (reason) (nestling_checkpoint_rejected_total)"},
            kind="stack",
            text="Since the service started.",
        ),
        Panel("Swaps", {"since the start": "sum(nestling_checkpoint_swaps_total)"}),
        Panel(
            "Loading (mean)",
            {
                "seconds": "sum(nestling_checkpoint_load_seconds_sum) "
                "/ sum(nestling_checkpoint_load_seconds_count)"
            },
            "s",
        ),
        Panel(
            "Models in memory",
            {
                "models": "sum(nestling_models_resident)",
                "volume readable": "min(nestling_volume_readable)",
            },
        ),
    ],
    "Trainer": [
        Panel(
            "Loss",
            {
                "step": "nestling_trainer_loss",
                "average": "nestling_trainer_loss_average",
                "held out": "nestling_trainer_validation_loss",
            },
            width=12,
            text="Nats a token.",
        ),
        Panel(
            "Held-out bits per byte", {"bits per byte": "nestling_trainer_validation_bpb"}, width=12
        ),
        Panel(
            "Gap",
            {
                "held out - training": "nestling_trainer_gap",
                "memorising": "nestling_trainer_memorising",
            },
        ),
        Panel("Learning rate", {"AdamW": "nestling_trainer_learning_rate"}, "sci"),
        Panel("Tokens a second", {"training": "nestling_trainer_tokens_per_second"}),
        Panel(
            "Steps",
            {"step": "nestling_trainer_step", "skipped": "nestling_trainer_steps_skipped_total"},
        ),
        Panel(
            "Checkpoints (mean)",
            {
                "training stood still": "nestling_trainer_checkpoint_stall_seconds_sum "
                "/ nestling_trainer_checkpoint_stall_seconds_count",
                "written beside it": "nestling_trainer_checkpoint_write_seconds_sum "
                "/ nestling_trainer_checkpoint_write_seconds_count",
            },
            "s",
        ),
        Panel("Memory", {"resident": "nestling_trainer_resident_memory_bytes"}, "bytes"),
    ],
}
SWAPS = "max by (instance) (changes(nestling_checkpoint_step[1m])) > 0"


def build() -> dict[str, Any]:
    """The dashboard as JSON, without the nulls that Grafana does not want."""
    dashboard = (
        board.Dashboard("nestling")
        .uid("nestling")
        .description("A small language model, served while it learns.")
        .tags(["nestling"])
        .time("now-30m", "now")
        .refresh("5s")
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .annotation(
            board.AnnotationQuery()
            .name("Swaps")
            .datasource(DATASOURCE)
            .enable(True)  # noqa: FBT003  the builder's way
            .icon_color("purple")
            .expr(SWAPS)
        )
    )
    numbers = itertools.count(1)
    for title, panels in ROWS.items():
        dashboard = dashboard.with_row(board.Row(title))
        for panel in panels:
            dashboard = dashboard.with_panel(_built(panel).id(next(numbers)))
    built: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(dashboard.build()))
    for annotation in built["annotations"]["list"]:  # newer Grafanas look here, older ones at expr
        annotation["target"] = {"expr": annotation["expr"], "refId": "Anno"}
    return _without_nulls(built)


def _built(panel: Panel) -> Any:
    builders = {"lines": _lines, "stack": _stack, "heatmap": _heatmap, "stat": stat.Panel}
    built = (
        builders[panel.kind]()
        .title(panel.title)
        .description(panel.text)
        .datasource(DATASOURCE)
        .span(panel.width)
        .height(4 if panel.kind == "stat" else 8)
        .unit(panel.unit)
    )
    for number, (legend, expression) in enumerate(panel.queries.items()):
        query = (
            prometheus.Dataquery()
            .expr(expression)
            .legend_format(legend)
            .ref_id(chr(ord("A") + number))
            .exemplar("_bucket" in expression and panel.kind == "lines")
        )
        if panel.kind == "heatmap":
            query = query.format(PromQueryFormat.HEATMAP)
        built = built.with_target(query)
    return built


def _lines() -> timeseries.Panel:
    return timeseries.Panel().show_points(common_models.VisibilityMode.NEVER).fill_opacity(8)


def _stack() -> timeseries.Panel:
    stacking = common.StackingConfig().mode(common_models.StackingMode.NORMAL)
    return _lines().fill_opacity(40).stacking(stacking)


def _heatmap() -> heatmap.Panel:
    color = heatmap.HeatmapColorOptions().scheme("Oranges").steps(64)
    color = color.mode(heatmap_models.HeatmapColorMode.SCHEME)
    return heatmap.Panel().calculate(False).color(color)  # noqa: FBT003


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def text() -> str:
    """What the file holds."""
    return json.dumps(build(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    OUTPUT.write_text(text())

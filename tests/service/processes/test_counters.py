import subprocess
import sys
from pathlib import Path

import pytest
from serving import Exposition

from service.processes.counters import SharedMetrics

COUNTING = """
import sys
from service.engine.request import FinishReason
from service.observe.metrics import FrontMetrics
from service.observe.timings import Timeline
metrics = FrontMetrics()
for _ in range(int(sys.argv[1])):
    timeline = Timeline(0.0, started=0.5, first_token=1.0, last_token=2.0, finished=2.0)
    metrics.requests.on_finished(timeline, FinishReason.STOP, 3, 4)
    metrics.requests.on_token(timeline, 0.25)
    metrics.requests.on_refused("queue_full")
    metrics.loop_lag.observe(0.001)
"""


def count(directory: Path, times: int) -> None:
    """In a process that has ended when this returns."""
    subprocess.run(
        [sys.executable, "-c", COUNTING, str(times)],
        check=True,
        cwd=Path(__file__).parents[3],
        env={"PROMETHEUS_MULTIPROC_DIR": str(directory)},
    )


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> SharedMetrics:
    """Beside two processes that have counted and ended."""
    directory = tmp_path_factory.mktemp("counters")
    metrics = SharedMetrics(directory)
    count(directory, 2)
    count(directory, 3)
    metrics.requests.on_refused("queue_full")
    metrics.requests.on_refused("unauthorized")
    return metrics


def test_what_processes_count_is_added_to_what_the_engine_counts(metrics: SharedMetrics) -> None:
    text = metrics.exposition().decode()
    found = Exposition(text)
    assert found.by_label("admission_rejections_total", "reason") == {
        "queue_full": 6,
        "unauthorized": 1,
    }
    assert found.by_label("requests_total", "outcome") == {
        **dict.fromkeys(("abort", "error", "length", "timeout"), 0),
        "stop": 5,
    }
    assert found.value("e2e_request_latency_seconds_sum") == 10
    assert found.value("inter_token_latency_seconds_count") == 5
    assert found.value("inter_token_latency_seconds_bucket", {"le": "0.25"}) == 5
    assert found.value("event_loop_lag_seconds_count") == 5
    assert found.value("generation_tokens_total") == 5
    assert found.value("num_requests_running") == 0, "gauges are the engine's alone"
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_who_asks_for_openmetrics_gets_it(metrics: SharedMetrics) -> None:
    text, content_type = metrics.scrape("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    assert b'nestling_requests_total{outcome="stop"} 5.0' in text

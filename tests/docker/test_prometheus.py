"""What the real Prometheus has of a real service under load is what happened, in PromQL."""

import itertools
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from machine_tools import require_tool
from serving import LiveService, RawClient, ServiceProcess, toy_settings, wait_until
from serving.prometheus import Prometheus, running_prometheus
from toys import publish_toy

NUM_REQUESTS = 60
NUM_CLIENTS = 6
NUM_ABORTED = 3
OUTCOMES = {"stop", "length", "abort", "timeout", "error"}
STEP_DELAY_S = 0.02
NAMES = (
    "time_to_first_token_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "e2e_request_latency_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
)


class Stage:
    """A service, the Prometheus that scrapes it, and how many requests it was asked."""

    def __init__(self, service: ServiceProcess, prometheus: Prometheus) -> None:
        self.service = service
        self.prometheus = prometheus
        self.num_tokens: list[int] = []
        self.num_prompt_tokens: list[int] = []

    def ask(self, number: int) -> None:
        """One whole answer, noted."""
        body = {
            "prompt": "To be, or not to be"[: 1 + number % 19],
            "max_new_tokens": 1 + number % 13,
            "seed": number,
        }
        usage = self.service.client.post("/generate", json=body).json()["usage"]
        self.num_tokens.append(usage["completion_tokens"])
        self.num_prompt_tokens.append(usage["prompt_tokens"])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A load of every kind: whole answers, clients that leave, refusals, and a swap."""
    volume = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 1)
    options = {"num_slots": NUM_CLIENTS, "step_delay_s": STEP_DELAY_S, "max_waiting_requests": 2}
    with ServiceProcess(volume, **options) as service:
        service.wait_serving("toy@1")
        targets = {"service": f"127.0.0.1:{service.port}"}
        with running_prometheus(tmp_path_factory.mktemp("prometheus"), targets) as prometheus:
            prometheus.wait_for("up", 1)
            stage = Stage(service, prometheus)
            with ThreadPoolExecutor(NUM_CLIENTS) as clients:
                list(clients.map(stage.ask, range(NUM_REQUESTS)))
            leave_early(service)
            refuse(service)
            publish_toy(volume, "toy", 2, seed=2)
            service.wait_serving("toy@2")
            prometheus.wait_for("nestling_checkpoint_step", 2)
            prometheus.wait_for("sum(nestling_requests_total)", NUM_REQUESTS + NUM_ABORTED)
            yield stage


def leave_early(service: ServiceProcess) -> None:
    for _ in range(NUM_ABORTED):
        client = RawClient.generate(service.port, prompt="To be", max_new_tokens=200, stream=True)
        client.read_until(b"token_id")
        client.close()
    wait_until(
        lambda: service.metrics().value("requests_total", {"outcome": "abort"}) == NUM_ABORTED,
        "all that left are counted",
    )


def refuse(service: ServiceProcess) -> None:
    """A prompt that is too long, an unknown model, and 40 made-up ones of those."""
    post = service.client.post
    assert post("/generate", json={"prompt": "x " * 4000}).status_code == 422
    for number in range(40):
        body = {"prompt": "To be", "model": f"made-up@{number}"}
        assert post("/generate", json=body).status_code == 404
        assert post(f"/generate/{number}", json=body).status_code == 404


@pytest.mark.slow
def test_every_request_is_in_every_histogram_once(stage: Stage) -> None:
    value = stage.prometheus.value
    total = NUM_REQUESTS + NUM_ABORTED
    assert {f"{name}: {value(f'nestling_{name}_count'):g}" for name in NAMES} == {
        f"{name}: {total}" for name in NAMES
    }
    assert value("sum(nestling_requests_total)") == total
    assert value('sum(nestling_requests_total{outcome=~"stop|length"})') == NUM_REQUESTS
    assert value('nestling_requests_total{outcome="abort"}') == NUM_ABORTED


@pytest.mark.slow
def test_tokens_and_their_gaps_add_up(stage: Stage) -> None:
    """N requests of M tokens: N first tokens, N x (M - 1) gaps."""
    value = stage.prometheus.value
    assert value("nestling_generation_tokens_total") == value(
        "nestling_request_generation_tokens_sum"
    )
    assert value("nestling_prompt_tokens_total") == value("nestling_request_prompt_tokens_sum")
    assert value("nestling_generation_tokens_total") == value(
        "nestling_inter_token_latency_seconds_count + nestling_time_to_first_token_seconds_count"
    )
    aborted = value("nestling_generation_tokens_total") - sum(stage.num_tokens)
    assert NUM_ABORTED <= aborted < NUM_ABORTED * 200
    asked = sum(stage.num_prompt_tokens)
    assert value("nestling_prompt_tokens_total") > asked


@pytest.mark.slow
def test_phases_add_up_to_whole_requests(stage: Stage) -> None:
    value = stage.prometheus.value
    phases = value(
        "nestling_request_queue_time_seconds_sum + nestling_request_prefill_time_seconds_sum"
    )
    assert phases == pytest.approx(value("nestling_time_to_first_token_seconds_sum"), rel=1e-6)
    decode = value("nestling_request_decode_time_seconds_sum")
    assert decode == pytest.approx(value("nestling_inter_token_latency_seconds_sum"), rel=1e-6)
    assert phases + decode <= value("nestling_e2e_request_latency_seconds_sum")


@pytest.mark.slow
def test_a_swap_leaves_one_checkpoint_and_no_old_label(stage: Stage) -> None:
    (info,) = stage.prometheus.query("nestling_checkpoint_info")
    assert (info["metric"]["run"], info["metric"]["step"]) == ("toy", "2")
    assert stage.prometheus.value("nestling_checkpoint_swaps_total") == 2


@pytest.mark.slow
def test_no_client_can_make_a_label(stage: Stage) -> None:
    refused = stage.prometheus.query("nestling_admission_rejections_total")
    counts = {one["metric"]["reason"]: float(one["value"][1]) for one in refused}
    assert counts == {"context_length_exceeded": 1, "model_not_found": 40, "not_found": 40}
    outcomes = stage.prometheus.query("nestling_requests_total")
    assert {one["metric"]["outcome"] for one in outcomes} == OUTCOMES
    assert stage.prometheus.value('count({__name__=~"nestling_.*"})') < 400


@pytest.mark.slow
def test_promtool_has_nothing_to_say(stage: Stage) -> None:
    program = require_tool("promtool", package="prometheus")
    exposition = stage.service.client.get("/metrics").content
    done = subprocess.run(
        [program, "check", "metrics"], input=exposition, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.slow
def test_no_alert_fires_over_a_healthy_service(stage: Stage) -> None:
    alerts = stage.prometheus.client.get("/api/v1/alerts").json()["data"]["alerts"]
    assert [one["labels"]["alertname"] for one in alerts if one["state"] == "firing"] == []


@pytest.mark.slow
def test_latencies_are_those_that_a_client_sees(tmp_path: Path) -> None:
    """Mean TTFT and mean gap from the sums, beside a clock at a client's socket: 5% + 2 ms.

    What else runs on the machine can delay the client alone, so one of three rounds has to agree.
    """
    publish_toy(tmp_path, "toy", 1)
    with ServiceProcess(tmp_path, num_slots=4, step_delay_s=STEP_DELAY_S) as service:
        service.wait_serving("toy@1")
        timed_stream(service.port)  # the first request warms what is lazy
        rounds = [compare_latencies(service) for _ in range(3)]
    assert any(
        all(abs(inside - outside) <= 0.05 * outside + 0.002 for inside, outside in one)
        for one in rounds
    ), rounds


def compare_latencies(service: ServiceProcess) -> list[tuple[float, float]]:
    """Mean TTFT and mean gap of some streams: what the service says, what the client saw."""
    before = service.metrics()
    streams = [timed_stream(service.port) for _ in range(20)]
    after = service.metrics()

    def inside(name: str) -> float:
        total = after.value(f"{name}_sum") - before.value(f"{name}_sum")
        return total / (after.value(f"{name}_count") - before.value(f"{name}_count"))

    return [
        (inside("time_to_first_token_seconds"), statistics.mean(first for first, _ in streams)),
        (
            inside("inter_token_latency_seconds"),
            statistics.mean(gap for _, gaps in streams for gap in gaps),
        ),
    ]


def timed_stream(port: int) -> tuple[float, list[float]]:
    """Seconds to the first token, and between tokens, by a clock at the client's socket."""
    client = RawClient.generate(port, prompt="To be", max_new_tokens=40, stream=True, seed=3)
    moments = [time.perf_counter()]
    while b"[DONE]" not in client.received:
        seen = client.received.count(b"token_id")
        client.read_some()
        new = client.received.count(b"token_id") - seen
        moments.extend([time.perf_counter()] * new)
    client.close()
    first, *gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert len(gaps) > 10
    return first, gaps


@pytest.mark.slow
def test_prometheus_follows_exemplars(tmp_path: Path) -> None:
    """Exemplars survive a scrape in OpenMetrics, which Prometheus asks for by itself."""
    publish_toy(tmp_path, "toy", 1)
    settings = toy_settings(tmp_path, otlp_endpoint="http://127.0.0.1:9")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with LiveService(settings) as service:
        service.wait_ready()
        headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        service.client.post("/generate", json={"prompt": "To be"}, headers=headers)
        targets = {"service": f"127.0.0.1:{service.port}"}
        with running_prometheus(tmp_path, targets) as prometheus:
            name = "nestling_time_to_first_token_seconds_bucket"

            def traces() -> list[str]:
                params = {"query": name, "start": time.time() - 600, "end": time.time() + 600}
                found = prometheus.client.get("/api/v1/query_exemplars", params=params).json()
                return [e["labels"]["trace_id"] for one in found["data"] for e in one["exemplars"]]

            wait_until(traces, "an exemplar is scraped")
            assert set(traces()) == {trace}

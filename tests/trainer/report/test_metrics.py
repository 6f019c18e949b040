import math
import socket
import subprocess
import threading
import urllib.request

import pytest
from machine_tools import free_port, require_tool
from prometheus_client import generate_latest
from prometheus_client.exposition import ThreadingWSGIServer
from serving import Exposition
from toy_events import evaluated, trained

from lm.machine import threads
from lm.machine.threads import Roots
from trainer.report.events import Began, Event, Note, Published, Skipped, Snapshotted
from trainer.report.metrics import GAUGES, Metrics, serve
from trainer.step.counters import Counters


def metrics_of(*events: Event) -> Metrics:
    metrics = Metrics()
    for event in events:
        metrics.hear(event)
    return metrics


def scrape(metrics: Metrics) -> Exposition:
    return Exposition(generate_latest(metrics.registry).decode())


def value(exposition: Exposition, name: str) -> float:
    return exposition.value(f"trainer_{name}")


A_RUN = (
    Began(step=0, counters=Counters()),
    Note("begins"),
    trained(1, tokens_seen=128, gpu_bytes=2**30),
    Skipped(step=2, in_a_row=1, skipped_steps=1),
    trained(3, loss=4.25, tokens_seen=384),
    evaluated(3, validation_loss=4.75, bits_per_byte=2.5, gap=-0.25, memorising=True),
    Snapshotted(step=3, stall_s=0.02),
    Published(step=3, write_s=0.75, error=None),
    Snapshotted(step=4, stall_s=0.03),
    Published(step=4, write_s=0.1, error="No space left on device"),
)


def test_every_figure_of_a_run_is_exported() -> None:
    exposition = scrape(metrics_of(*A_RUN))
    expected = {
        "step": 3,
        "loss": 4.25,
        "loss_average": 5.0,
        "learning_rate": 1e-3,
        "tokens_per_second": 64.0,
        "peak_ratio": 0.5,
        "validation_loss": 4.75,
        "validation_bpb": 2.5,
        "gap": -0.25,
        "memorising": 1,
        "checkpoint_step": 3,
        "tokens_total": 384,
        "steps_skipped_total": 1,
        "checkpoint_failures_total": 1,
        "checkpoint_stall_seconds_count": 2,
        "checkpoint_stall_seconds_sum": 0.05,
        "checkpoint_write_seconds_count": 1,
        "checkpoint_write_seconds_sum": 0.75,
    }
    assert {name: value(exposition, name) for name in expected} == expected
    assert 2**20 < value(exposition, "resident_memory_bytes") < 2**40


def test_what_was_not_measured_is_not_a_number() -> None:
    exposition = scrape(Metrics())
    unknown = {name for name in GAUGES if math.isnan(value(exposition, name))}
    assert unknown == set(GAUGES) - {"resident_memory_bytes"}
    assert value(exposition, "tokens_total") == 0


def test_a_resumed_run_shows_what_it_knows_and_counts_anew() -> None:
    counters = Counters(
        micro_step=40, tokens_seen=5120, skipped_steps=3, loss_average=3.5, validation_loss=3.75,
        bits_per_byte=2.0, memorised_in_a_row=3,
    )  # fmt: skip
    exposition = scrape(
        metrics_of(Began(step=20, counters=counters), trained(21, tokens_seen=5376))
    )
    assert value(exposition, "validation_loss") == 3.75
    assert value(exposition, "memorising") == 1
    assert value(exposition, "checkpoint_step") == 20
    assert value(exposition, "tokens_total") == 256
    assert value(exposition, "steps_skipped_total") == 0


def test_two_runs_do_not_share_their_numbers() -> None:
    metrics_of(*A_RUN)
    assert math.isnan(value(scrape(Metrics()), "loss"))


def test_they_are_served_while_the_run_lasts() -> None:
    metrics = metrics_of(*A_RUN)
    port = free_port()
    with serve(metrics, "127.0.0.1", port, Roots()):
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=")
            served = Exposition(response.read().decode())
    assert value(served, "loss") == 4.25
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=10)


def test_failures_of_threads_are_counted_and_the_server_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "AGAIN_AFTER_S", 0.01)
    roots, serve_forever = Roots(), ThreadingWSGIServer.serve_forever
    kills = iter([SystemExit, MemoryError, KeyboardInterrupt])

    def die_at_first(server: ThreadingWSGIServer, poll_interval: float = 0.5) -> None:
        if threading.current_thread().name == "metrics" and (kind := next(kills, None)):
            raise kind
        serve_forever(server, poll_interval)

    monkeypatch.setattr(ThreadingWSGIServer, "serve_forever", die_at_first)
    port = free_port()
    with serve(Metrics(), "127.0.0.1", port, roots):
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            served = Exposition(response.read().decode())
    assert served.value("trainer_thread_failures_total", {"thread": "metrics"}) == 3


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(ValueError, match=rf"metrics on 127\.0\.0\.1:{port}: Address already"),
            serve(Metrics(), "127.0.0.1", port, Roots()),
        ):
            pass


def test_promtool_has_nothing_to_say() -> None:
    promtool = require_tool("promtool", package="prometheus")
    exposition = generate_latest(metrics_of(*A_RUN).registry)
    check = subprocess.run([promtool, "check", "metrics"], input=exposition, capture_output=True)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")

"""Beside a process that takes a core, checkpoints that come hold nobody up."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ServiceProcess, SteadyClient, assert_unhurt
from toys import publish_toy, toy_weights

STEPS = range(2, 8)
BUSY = "while True: pass"


@pytest.fixture
def burner() -> Iterator[None]:
    """A process that always wants a core."""
    with subprocess.Popen([sys.executable, "-S", "-c", BUSY]) as process:
        yield
        process.kill()


@pytest.mark.parametrize("engine", ["thread", pytest.param("process", marks=pytest.mark.slow)])
def test_streams_and_health_do_not_notice_that_checkpoints_are_loaded(
    tmp_path: Path, burner: None, engine: str
) -> None:
    publish_toy(tmp_path, "toy", 1)

    def publish() -> None:
        for step in STEPS:
            publish_toy(tmp_path, "toy", step, weights=toy_weights(step))
            time.sleep(0.5)

    with ServiceProcess(tmp_path, engine=engine) as service:
        service.wait_serving("toy@1")
        with SteadyClient(service) as steady:
            alone = steady.alone()
            assert_unhurt(steady.during(publish), alone)
        service.wait_serving(f"toy@{STEPS[-1]}")

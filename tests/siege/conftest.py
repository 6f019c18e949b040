"""What every attack begins with: a service in a process of its own and a steady stream beside.

Attacks are one file a kind. A short dose of each runs in ``make test`` against the toy; the whole,
marked ``slow``, against SmolLM2-135M-Instruct (``released``).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ServiceProcess, SteadyClient
from serving.released import Released
from serving.steady import touch_every_slot
from toys import publish_toy

STEP_DELAY_S = 0.005
"""A toy's step takes so long at least, so that a stream lasts as long as an attack."""
MEMORY_BYTES = 512 * 2**20
"""What an attack may make a service take at most before it gets a MemoryError."""


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``toy@1``."""
    volume = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 1)
    return volume


@pytest.fixture(scope="module")
def service(volume: Path) -> Iterator[ServiceProcess]:
    """The toy behind the defaults of every limit. A file that needs others makes its own."""
    with ServiceProcess(volume, step_delay_s=STEP_DELAY_S) as service:
        service.wait_serving("toy@1")
        service.limit_memory(MEMORY_BYTES)
        yield service


@pytest.fixture
def steady(service: ServiceProcess) -> Iterator[SteadyClient]:
    """A stream of the toy's tokens, one about every ``STEP_DELAY_S``."""
    with SteadyClient(service) as steady:
        yield steady


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    """SmolLM2-135M-Instruct in a volume; skips without ``make weights``."""
    return Released.bring(tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="module")
def released_service(released: Released) -> Iterator[ServiceProcess]:
    """Serves SmolLM2-135M-Instruct as it comes, on one thread."""
    options = {"dtype": "auto", "poll_interval_s": 0.5}
    with ServiceProcess(released.volume, **options) as service:
        service.wait_serving(released.name)
        touch_every_slot(service)
        service.limit_memory(MEMORY_BYTES)
        yield service


def pytest_itemcollected(item: pytest.Item) -> None:
    """A gap is measured with nothing beside: tests that have a stream run alone."""
    names = {*getattr(item, "fixturenames", ()), *vars(getattr(item, "module", object))}
    if names & {"steady", "SteadyClient"}:
        item.add_marker(pytest.mark.alone)

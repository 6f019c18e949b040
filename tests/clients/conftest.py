"""A service on a real socket, for clients that others wrote."""

from collections.abc import Iterator

import pytest
from serving import LiveService, toy_settings
from serving.released import Released
from toys import publish_toy


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """Serves ``toy@7`` in float64."""
    volume = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 7, seed=7)
    with LiveService(toy_settings(volume)) as service:
        service.wait_ready()
        yield service


@pytest.fixture
def address(service: LiveService) -> str:
    return f"http://127.0.0.1:{service.port}"


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return Released.bring(tmp_path_factory.mktemp("released"))

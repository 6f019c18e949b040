"""One live service a module, and services that a test holds in its hand.

Matrix products take one thread: toys are too small for more, and other tests share the cores.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from serving import GatedService, LiveService, toy_settings
from toys import publish_toy

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """Serves ``toy@7``, the toy of seed 7, in float64."""
    volume = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 7, seed=7)
    with LiveService(toy_settings(volume, max_body_bytes=4000)) as service:
        service.wait_ready()
        yield service


@pytest.fixture
def client(service: LiveService) -> httpx.Client:
    return service.client


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[GatedService]:
    """One slot, two tokens a step, and no step unless the test releases one."""
    with GatedService(tmp_path, num_slots=1, max_step_tokens=2, max_waiting_requests=1) as service:
        yield service

from collections.abc import Iterator

import pytest
from fuzzing import ADMIN_KEY
from serving import ServiceProcess
from toys import publish_toy


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A process of its own, so that its memory is its own; impatient, so that it is quick."""
    volume = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 1)
    options = {"client_timeout_s": 0.5, "max_body_bytes": 50_000, "admin_key": ADMIN_KEY}
    with ServiceProcess(volume, **options) as service:
        service.wait_serving("toy@1")
        yield service

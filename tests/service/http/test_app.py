import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import LiveService, toy_settings

from service.http.app import create_app


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    with LiveService(toy_settings(tmp_path_factory.mktemp("volume"))) as service:
        yield service


def test_the_page_of_the_api_needs_no_other_host(service: LiveService) -> None:
    page = service.client.get("/docs")
    assert page.status_code == 200
    assert re.findall(r"""(?:https?:)?//[\w.-]+""", page.text) == []
    assets = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert any(asset.endswith(".js") for asset in assets)
    assert any(asset.endswith(".css") for asset in assets)
    for asset in assets:
        response = service.client.get(asset)
        assert response.status_code == 200, asset
        assert response.content, asset


def test_the_schema_knows_every_route_and_its_errors(service: LiveService) -> None:
    schema = service.client.get("/openapi.json").json()
    assert schema["paths"].keys() == {
        "/",
        "/generate",
        "/generate_stream",
        "/v1/completions",
        "/v1/chat/completions",
        "/tokenize",
        "/detokenize",
        "/checkpoints",
        "/checkpoints/reload",
        "/runs/{run}/history",
        "/v1/models",
        "/v1/models/{name}",
        "/healthz",
        "/readyz",
        "/health",
        "/info",
        "/metrics",
        "/version",
    }
    responses = schema["paths"]["/generate"]["post"]["responses"]
    for status in ("400", "404", "413", "422", "429", "500", "503", "504"):
        reference = responses[status]["content"]["application/json"]["schema"]["$ref"]
        assert reference.endswith("/ErrorBody"), status


def test_making_an_app_starts_nothing(tmp_path: Path) -> None:
    before = threading.enumerate()
    first, second = create_app(toy_settings(tmp_path)), create_app(toy_settings(tmp_path))
    assert threading.enumerate() == before
    assert first.state.runtime is not second.state.runtime
    assert list(tmp_path.iterdir()) == []


def test_importing_does_no_work() -> None:
    """No thread, no log handler, no file: in a process of its own."""
    program = (
        "import logging, threading, service.http.app, service.__main__\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert logging.getLogger().handlers == []\n"
        "assert 'trainer' not in __import__('sys').modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[3])

"""Every example of docs/http.md, run as it stands, and one for every route there is."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine_tools import require_tool
from serving import LiveService, toy_settings
from toys import publish_toy

PAGE = (Path(__file__).parent.parent.parent / "docs" / "http.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"
EXAMPLES = [
    command
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for command in re.split(r"\n(?=curl )", block.strip())
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    volume = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "tiny", 7)
    with LiveService(toy_settings(volume, admin_key="secret-of-the-page")) as service:
        service.wait_ready()
        yield service


@pytest.mark.parametrize("command", EXAMPLES, ids=lambda command: command.split("8000")[1][:24])
def test_an_example_works_as_it_stands(service: LiveService, command: str) -> None:
    curl = require_tool("curl", package="curl")
    assert command.startswith("curl ")
    called = command.replace(ADDRESS, f"http://127.0.0.1:{service.port}")
    done = subprocess.run(
        ["bash", "-c", called.replace("curl ", f"{curl} -sS --fail-with-body ", 1)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"NESTLING_ADMIN_KEY": "secret-of-the-page", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if "stream" in command:
        assert done.stdout.startswith("data: {")
    elif not command.endswith("/metrics"):
        assert json.loads(done.stdout)


def test_every_route_has_an_example(service: LiveService) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]
    called = [command.split("8000")[1].split()[0] for command in EXAMPLES]
    called = [path.replace("latest", "{name}").replace("tiny", "{run}") for path in called]
    assert sorted(set(paths) - set(called)) == []


def test_the_examples_in_python_are_python() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "docs/http.md", "exec")

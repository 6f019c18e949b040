"""A browser, and a page over a service, for the tests that use it as a person does."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from machine_tools import require_tool
from serving.process import ServiceProcess
from toys import publish_toy

if TYPE_CHECKING:  # who has no browser can run the other tests here
    from playwright.sync_api import Browser, BrowserContext

STEP_S = 0.02


@pytest.fixture(scope="module")  # a session's would hold its event loop while other tests run
def browser() -> "Iterator[Browser]":
    from playground_browser import chromium

    with chromium(require_tool("chromium", package="chromium")) as browser:
        yield browser


@pytest.fixture
def context(browser: "Browser") -> "Iterator[BrowserContext]":
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    volume = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 1)
    return volume


@pytest.fixture(scope="module")
def service(volume: Path) -> Iterator[ServiceProcess]:
    with ServiceProcess(volume, step_delay_s=STEP_S) as service:
        service.wait_serving("toy@1")
        yield service


@pytest.fixture(scope="module")
def url(service: ServiceProcess) -> Iterator[str]:
    from playground_browser import playground

    with playground(service.port) as url:
        yield url

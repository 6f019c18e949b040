"""The page in a real browser, over a real service: what a person does, and what then happens."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving.process import ServiceProcess
from serving.waiting import wait_until
from tools import free_port, require_tool
from toys import publish_toy

pytest.importorskip("gradio")
pytest.importorskip("playwright")

from playground_browser import ask, chromium, open_page, playground, text_of, wait_said
from playwright.sync_api import Browser, BrowserContext

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEP_S = 0.02


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(require_tool("chromium", package="chromium")) as browser:
        yield browser


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
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
    with playground(service.port) as url:
        yield url


def test_a_prompt_is_answered_as_it_is_written_and_nothing_comes_from_elsewhere(
    context: BrowserContext, url: str
) -> None:
    elsewhere, errors = [], []
    page = open_page(context, url)
    page.on("request", lambda request: elsewhere.append(request.url))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    ask(page, "To be")
    page.wait_for_function("document.querySelector('#text textarea').value.length > 5")
    early = text_of(page)
    said = wait_said(page, "tokens/s")
    assert text_of(page).startswith(early)
    assert len(text_of(page)) > len(early), "it was streamed"
    assert "first token after" in said
    assert "toy@1" in said
    local = ("http://127.0.0.1:", "data:", "blob:")
    assert [address for address in elsewhere if not address.startswith(local)] == []
    assert errors == []


def test_stop_frees_the_slot(context: BrowserContext, url: str, service: ServiceProcess) -> None:
    page = open_page(context, url)
    ask(page, "To be")
    wait_until(lambda: service.metrics().value("num_requests_running") == 1, "it runs")
    page.click("#stop")
    wait_until(
        lambda: service.metrics().value("num_requests_running") == 0, "it was freed", timeout_s=2
    )
    assert service.metrics().by_label("requests_total", "outcome").get("abort", 0) >= 1
    wait_said(page, "stopped")


def test_a_checkpoint_is_chosen_while_the_trainer_publishes(
    context: BrowserContext, url: str, service: ServiceProcess, volume: Path
) -> None:
    page = open_page(context, url)
    publish_toy(volume, "toy", 2, seed=2)
    service.wait_serving("toy@2")
    picker = page.get_by_label("Checkpoint").first
    picker.click()
    page.get_by_role("option", name="toy@2").first.wait_for()
    page.get_by_role("option", name="toy@1").first.click()
    publish_toy(volume, "toy", 3, seed=3)
    service.wait_serving("toy@3")
    ask(page, "To be")
    assert "toy@1" in wait_said(page, "tokens/s")
    page.get_by_role("tab", name="Watch it learn").click()
    page.wait_for_function("document.querySelector('#served').innerText.includes('toy@3')")


def test_a_service_that_restarts_is_used_again(tmp_path: Path, context: BrowserContext) -> None:
    publish_toy(tmp_path, "toy", 1)
    port = free_port()
    with playground(port) as url:
        page = open_page(context, url)
        ask(page, "To be")
        wait_said(page, "cannot be reached just now")
        with ServiceProcess(tmp_path, port=port) as service:
            service.wait_serving("toy@1")
            ask(page, "To be")
            wait_said(page, "tokens/s")
        ask(page, "Or not")
        wait_said(page, "⚠️")


def test_twenty_users_at_once_are_all_answered(
    context: BrowserContext, url: str, service: ServiceProcess
) -> None:
    pages = [open_page(context, url) for _ in range(20)]
    for number, page in enumerate(pages):
        ask(page, f"User {number}")
    for number, page in enumerate(pages):
        page.set_default_timeout(300_000)
        assert "tokens" in wait_said(page, "first token after")
        assert text_of(page).startswith(f"User {number}")


def test_it_fits_a_phone_in_both_colours(browser: Browser, url: str) -> None:
    for colours in ("light", "dark"):
        context = browser.new_context(
            viewport={"width": 390, "height": 844}, is_mobile=True, color_scheme=colours
        )
        page = open_page(context, url)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        channels = [int(part) for part in background.strip("rgba()").split(",")[:3]]
        assert (sum(channels) > 3 * 128) is (colours == "light"), background
        context.close()

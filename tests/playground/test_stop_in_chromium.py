"""Stop in a real browser: the slot is free at once, and the page goes on saying so.

Every answer here would take a minute: what ends earlier was stopped.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving.process import ServiceProcess
from serving.waiting import wait_until

pytest.importorskip("gradio")
pytest.importorskip("playwright")

from playground_browser import (
    ask,
    ask_in_chat,
    open_page,
    open_tab,
    playground,
    set_sampling,
    wait_said,
    wait_text,
)
from playwright.sync_api import BrowserContext, Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
STEP_S, TOKENS = 0.3, 200
LINES = """where => {
    window.lines = [];
    const block = document.querySelector(where);
    const line = () => block.querySelector('[data-testid=markdown]')?.innerText ?? '';
    new MutationObserver(() => window.lines.push(line().trim())).observe(block, {
        subtree: true, childList: true, characterData: true
    });
}"""


@pytest.fixture(scope="module")
def service(volume: Path) -> Iterator[ServiceProcess]:
    with ServiceProcess(volume, step_delay_s=STEP_S) as service:
        service.wait_serving("toy@1")
        yield service


@pytest.fixture(scope="module")
def url(service: ServiceProcess) -> Iterator[str]:
    with playground(service.port, "--concurrency", "1") as url:
        yield url


def wait_running(service: ServiceProcess, number: int) -> None:
    wait_until(
        lambda: service.metrics().value("num_requests_running") == number,
        f"{number} run",
        timeout_s=STEP_S * TOKENS / 2,
    )


def aborts(service: ServiceProcess) -> float:
    return service.metrics().by_label("requests_total", "outcome").get("abort", 0)


@pytest.fixture
def page(context: BrowserContext, url: str) -> Page:
    """Set to the likeliest tokens: the toy then never ends by itself."""
    page = open_page(context, url)
    set_sampling(page, "prompt", temperature="0", most_tokens=str(TOKENS))
    open_tab(page, "Chat")
    set_sampling(page, "chat", temperature="0", most_tokens=str(TOKENS))
    open_tab(page, "Prompt")
    return page


@pytest.mark.parametrize(
    ("tab", "send", "stop", "line"),
    [("Prompt", ask, "#stop", "#said"), ("Chat", ask_in_chat, "#chat-stop", "#chat-said")],
)
def test_stop_frees_the_slot_and_stays_said(
    page: Page,
    service: ServiceProcess,
    tab: str,
    send: Callable[[Page, str], None],
    stop: str,
    line: str,
) -> None:
    before = aborts(service)
    open_tab(page, tab)
    send(page, "To be")
    wait_running(service, 1)
    page.evaluate(LINES, line)
    page.click(stop)
    wait_running(service, 0)
    assert aborts(service) == before + 1
    wait_said(page, "stopped", where=line)
    page.wait_for_timeout(10 * 1000 * STEP_S)  # tokens that were under way would come now
    lines = page.evaluate("window.lines")
    assert set(lines[lines.index("stopped") :]) == {"stopped"}


def test_a_stopped_text_stays_and_the_next_prompt_is_answered(
    page: Page, service: ServiceProcess
) -> None:
    ask(page, "To be")
    text = wait_text(page, longer_than=len("To be"))
    page.click("#stop")
    wait_said(page, "stopped")
    wait_running(service, 0)
    assert wait_text(page, longer_than=len("To be")).startswith(text)
    ask(page, "Or not")
    page.wait_for_function("document.querySelector('#text textarea').value.startsWith('Or not')")
    wait_running(service, 1)
    page.click("#stop")
    wait_running(service, 0)


def test_who_stops_in_the_queue_is_never_asked_for(
    page: Page, context: BrowserContext, url: str, service: ServiceProcess
) -> None:
    ask(page, "First")
    wait_running(service, 1)
    waiting = open_page(context, url)
    ask(waiting, "Second")
    waiting.wait_for_function("document.querySelector('#text').innerText.includes('queue: 1/1')")
    waiting.click("#stop")
    wait_said(waiting, "stopped")
    page.click("#stop")
    wait_running(service, 0)
    waiting.wait_for_timeout(10 * 1000 * STEP_S)
    wait_running(service, 0)
    assert waiting.input_value("#text textarea") == ""
    assert waiting.inner_text("#said") == "stopped"

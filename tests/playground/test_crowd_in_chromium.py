"""Twenty people at once, each with a browser of their own, over a page that answers five."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving.process import ServiceProcess

pytest.importorskip("gradio")
pytest.importorskip("playwright")

from playground_browser import open_page, playground, text_of, wait_said
from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
USERS, AT_ONCE, STEP_S = 20, 5, 0.05
DRAW_SELDOM = """
    window.requestAnimationFrame = draw => setTimeout(() => draw(performance.now()), 1000);
    window.cancelAnimationFrame = clearTimeout;
"""
"""Each page counts tenths of seconds as it waits; twenty windows of them starve a small machine."""
WATCH = """() => {
    window.places = [];
    const see = () => {
        const place = document.querySelector('#text').innerText.match(/queue: [0-9]+.[0-9]+/);
        const text = document.querySelector('#text textarea').value;
        if (place && window.places.at(-1)?.[0] !== place[0]) window.places.push([place[0], text]);
    };
    const all = {subtree: true, childList: true, characterData: true};
    new MutationObserver(see).observe(document.querySelector('#text'), all);
}"""


@pytest.fixture(scope="module")
def service(volume: Path) -> Iterator[ServiceProcess]:
    with ServiceProcess(volume, step_delay_s=STEP_S) as service:
        service.wait_serving("toy@1")
        yield service


@pytest.fixture(scope="module")
def url(service: ServiceProcess) -> Iterator[str]:
    with playground(service.port, "--concurrency", str(AT_ONCE)) as url:
        yield url


def arrive(browser: Browser, url: str, number: int) -> Page:
    """A page with a prompt, ready to go.

    One browser opens six connections to a host, and every page holds one: twenty pages of one
    person would wait for each other and not for the queue.
    """
    context = browser.new_context(reduced_motion="reduce")
    context.add_init_script(DRAW_SELDOM)
    page = open_page(context, url)
    page.fill("#prompt textarea", f"User {number}")
    page.evaluate(WATCH)
    return page


def test_twenty_users_see_their_places_and_are_all_answered(browser: Browser, url: str) -> None:
    pages = [arrive(browser, url, number) for number in range(USERS)]
    for page in pages:
        page.click("#go")
    for number, page in enumerate(pages):
        wait_said(page, "first token after", timeout_s=300)
        assert text_of(page).startswith(f"User {number}")
    seen = [page.evaluate("window.places") for page in pages]
    waited = [[_place(shown) for shown, _ in places] for places in seen if places]
    assert len(waited) >= USERS - 2 * AT_ONCE, "all but the first see a place"
    assert max(places[0] for places in waited) >= USERS - 2 * AT_ONCE, "there was a long queue"
    assert [places for places in waited if places != sorted(places, reverse=True)] == []
    assert {text for places in seen for _, text in places} == {""}, "places come before answers"
    for page in pages:
        page.context.close()


def _place(shown: str) -> int:
    place, size = (int(number) for number in re.findall(r"\d+", shown))
    assert 1 <= place <= size <= USERS, shown
    return place

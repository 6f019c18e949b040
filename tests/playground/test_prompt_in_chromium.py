"""A prompt in a real browser, over a real service, on a desk and on a phone."""

import pytest

pytest.importorskip("gradio")
pytest.importorskip("playwright")

from playground_browser import ask, open_page, set_sampling, text_of, wait_said, wait_text
from playwright.sync_api import Browser, BrowserContext

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_prompt_is_answered_as_it_is_written_and_nothing_comes_from_elsewhere(
    context: BrowserContext, url: str
) -> None:
    elsewhere, errors = [], []
    page = open_page(context, url)
    page.on("request", lambda request: elsewhere.append(request.url))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    ask(page, "To be")
    early = wait_text(page, longer_than=5)
    said = wait_said(page, "first token after")
    assert text_of(page).startswith(early)
    assert len(text_of(page)) > len(early), "it was streamed"
    assert "tokens/s" in said
    assert "toy@1" in said
    local = ("http://127.0.0.1:", "data:", "blob:")
    assert [address for address in elsewhere if not address.startswith(local)] == []
    assert errors == []


def test_the_seed_under_an_answer_repeats_it(context: BrowserContext, url: str) -> None:
    page = open_page(context, url)
    ask(page, "To be")
    said, text = wait_said(page, "first token after"), text_of(page)
    _, seed = next(fact.split() for fact in said.split(" · ") if fact.startswith("seed"))
    set_sampling(page, "prompt", seed=seed)
    ask(page, "To be")
    wait_said(page, "…")
    assert f"seed {seed}" in wait_said(page, "first token after")
    assert text_of(page) == text


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_it_fits_a_phone_in_both_colours(browser: Browser, url: str, colours: str) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, is_mobile=True, color_scheme=colours
    )
    page = open_page(context, url)
    for tab in page.get_by_role("tab").all():
        tab.click()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    channels = [int(part) for part in background.strip("rgba()").split(",")[:3]]
    assert (sum(channels) > 3 * 128) is (colours == "light"), background
    context.close()

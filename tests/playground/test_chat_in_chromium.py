"""A chat in a real browser: its controls are asked of the service, its pace stands under it."""

import re

import pytest

pytest.importorskip("gradio")
pytest.importorskip("playwright")

from playground_browser import ask_in_chat, open_page, open_tab, set_sampling, wait_said
from playwright.sync_api import BrowserContext, Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SAID = "#chat-said"
BOT = "#chat [data-testid=bot]"


def answers(page: Page) -> list[str]:
    return page.locator(BOT).all_inner_texts()


def answered(page: Page, question: str) -> str:
    """Ask, and wait for the line under the whole answer."""
    ask_in_chat(page, question)
    return wait_said(page, "first token after", where=SAID)


def test_a_chat_goes_on_and_says_its_pace(context: BrowserContext, url: str) -> None:
    page = open_page(context, url)
    open_tab(page, "Chat")
    set_sampling(page, "chat", most_tokens="12", seed="5")
    first = answered(page, "To be")
    assert re.fullmatch(
        r"[\d,]+ tokens/s · first token after [\d,]+ ms · \d+ tokens · toy@1 · (length|stop)", first
    )
    answered(page, "or not")
    page.wait_for_function(f"document.querySelectorAll('{BOT}').length === 2")
    assert all(answers(page))
    page.click("#clear")
    page.wait_for_function(f"document.querySelectorAll('{BOT}').length === 0")


def test_a_chat_s_controls_are_asked_of_the_service(context: BrowserContext, url: str) -> None:
    page = open_page(context, url)
    open_tab(page, "Chat")
    set_sampling(page, "chat", most_tokens="12", seed="5", temperature="2", top_k="0", top_p="1")
    assert "12 tokens" in answered(page, "To be")
    whole = answers(page)[0]
    page.click("#clear")
    page.wait_for_function(f"document.querySelectorAll('{BOT}').length === 0")
    page.get_by_label("Stop texts").locator("visible=true").fill(whole[3:5])
    assert "stop" in answered(page, "To be")
    assert answers(page)[0].strip() == whole[: whole.index(whole[3:5])].strip()


def test_a_seed_that_is_none_is_said_in_words(context: BrowserContext, url: str) -> None:
    page = open_page(context, url)
    open_tab(page, "Chat")
    set_sampling(page, "chat", seed="lucky")
    ask_in_chat(page, "To be")
    assert "'lucky' is none" in wait_said(page, "the seed is to be", where=SAID)
    ask_in_chat(page, "")
    wait_said(page, "⚠️", where=SAID)

"""The playground as a child process, and Chromium to use it with."""

import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from machine_tools import free_port
from playwright.sync_api import Browser, BrowserContext, Locator, Page, sync_playwright
from serving.waiting import wait_until

ROOT = Path(__file__).parents[2]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 60_000
DRAWN_MS = 500
"""A control that was drawn just now may be set to its first value once more."""


@contextlib.contextmanager
def playground(service_port: int, *options: str) -> Iterator[str]:
    """Address of a page over a service on this machine."""
    service = f"http://127.0.0.1:{service_port}"
    command = [sys.executable, "-u", "-m", "playground", "--service", service]
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        port = ["--port", str(free_port())]
        process = subprocess.Popen([*command, *port, *options], cwd=ROOT, stdout=log, stderr=log)

        def address() -> str | None:
            assert process.poll() is None, Path(log.name).read_text()
            found = re.search(r"http://127\.0\.0\.1:\d+", Path(log.name).read_text())
            return None if found is None else found[0]

        try:
            wait_until(lambda: address() is not None, "the page is served", timeout_s=120)
            yield address() or ""
        finally:
            process.terminate()
            process.wait(20)


@contextlib.contextmanager
def chromium(executable: str) -> Iterator[Browser]:
    """Debian's Chromium, headless."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def open_page(context: BrowserContext, url: str) -> Page:
    """A tab with the page ready to be used."""
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(url)
    page.wait_for_selector("#prompt textarea")
    return page


def ask(page: Page, prompt: str) -> None:
    """Type a prompt and go."""
    page.fill("#prompt textarea", prompt)
    page.click("#go")


def ask_in_chat(page: Page, question: str) -> None:
    """Type a message and send it."""
    page.fill("#question textarea", question)
    page.click("#send")


def open_tab(page: Page, name: str) -> None:
    """Go to a tab by its name."""
    page.get_by_role("tab", name=name).click()


def set_sampling(page: Page, tab: str, **values: str) -> None:
    """Open the controls of a tab and type into those of these labels, ``_`` for a space."""
    sampling = page.locator(f"#{tab}-sampling")
    sampling.get_by_role("button", name="Sampling").click()
    page.wait_for_timeout(DRAWN_MS)
    for label, value in values.items():
        control = sampling.get_by_label(re.compile(label.replace("_", " "), re.IGNORECASE))
        control.first.fill(value)  # a slider's first is its number, the second what is dragged
        control.first.press("Tab")


def offered(page: Page, tab: str, name: str) -> Locator:
    """A checkpoint in the opened picker of a tab, once the page offers it."""
    page.locator(f"#{tab}-model input").click()
    option = page.locator(f"#{tab}-model").get_by_role("option", name=name)
    option.wait_for()
    return option


def wait_said(page: Page, words: str, *, where: str = "#said", timeout_s: float = 60) -> str:
    """Wait until the line under an answer has these words; returns it."""
    page.wait_for_function(
        "([where, words]) => document.querySelector(where)?.innerText.includes(words)",
        arg=[where, words],
        polling=250,  # frames, the default, are not drawn in tabs behind others
        timeout=1000 * timeout_s,
    )
    return page.inner_text(where)


def text_of(page: Page) -> str:
    """The text so far."""
    return page.input_value("#text textarea")


def wait_text(page: Page, *, longer_than: int) -> str:
    """Wait until the text has more characters than these; returns it."""
    page.wait_for_function(
        "length => document.querySelector('#text textarea').value.length > length",
        arg=longer_than,
        polling=50,
    )
    return text_of(page)

"""The playground as a child process, and Chromium to use it with."""

import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from serving.waiting import wait_until
from tools import free_port

ROOT = Path(__file__).parents[1]
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


def wait_said(page: Page, words: str) -> str:
    """Wait until the line under the text has these words; returns it."""
    page.wait_for_function(
        "words => document.querySelector('#said')?.innerText.includes(words)",
        arg=words,
        polling=250,  # frames, the default, are not drawn in tabs behind others
    )
    return page.inner_text("#said")


def text_of(page: Page) -> str:
    """The text so far."""
    return page.input_value("#text textarea")

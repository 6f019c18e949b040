"""The service dies under an open page and comes back: it is used again, nothing is reloaded."""

from pathlib import Path

import pytest
from machine_tools import free_port
from serving.process import ServiceProcess
from toys import publish_toy

pytest.importorskip("gradio")
pytest.importorskip("playwright")

from playground_browser import (
    ask,
    ask_in_chat,
    offered,
    open_page,
    open_tab,
    playground,
    set_sampling,
    text_of,
    wait_said,
    wait_text,
)
from playwright.sync_api import BrowserContext

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_service_that_is_killed_and_comes_back_is_used_again(
    tmp_path: Path, context: BrowserContext
) -> None:
    publish_toy(tmp_path, "toy", 1)
    publish_toy(tmp_path, "toy", 2, seed=2)
    port = free_port()
    with playground(port) as url:
        with ServiceProcess(tmp_path, port=port, step_delay_s=0.3) as service:
            service.wait_serving("toy@2")
            page = open_page(context, url)
            page.evaluate("window.isTheSame = true")
            offered(page, "prompt", "toy@1").click()
            ask(page, "To be")
            written = wait_text(page, longer_than=len("To be"))
            service.process.kill()
            wait_said(page, "the connection to the service broke off")
            assert text_of(page).startswith(written), "what was written stays"
            ask(page, "Anyone?")
            wait_said(page, "cannot be reached just now")
        with ServiceProcess(tmp_path, port=port) as service:
            service.wait_serving("toy@2")
            ask(page, "To be")
            assert "toy@1" in wait_said(page, "first token after"), "the choice outlived it"
            open_tab(page, "Chat")
            set_sampling(page, "chat", most_tokens="12")
            ask_in_chat(page, "To be")
            assert "toy@2" in wait_said(page, "first token after", where="#chat-said")
            assert page.evaluate("window.isTheSame")

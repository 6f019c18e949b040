"""The page while a trainer publishes: new checkpoints to choose, curves, samples, comparisons."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import damaged_steps
from serving.process import ServiceProcess
from toy_run import train_toy

pytest.importorskip("gradio")
pytest.importorskip("playwright")

from playground_browser import (
    ask,
    offered,
    open_page,
    open_tab,
    set_sampling,
    wait_said,
)
from playwright.sync_api import BrowserContext, Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
BROKEN_STEP = 20


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A run that has published its first checkpoint."""
    train_toy(tmp_path, last_step=5)
    return tmp_path


@pytest.fixture
def service(volume: Path) -> Iterator[ServiceProcess]:
    with ServiceProcess(volume) as service:
        service.wait_serving("toy@5")
        yield service


@pytest.fixture
def url(service: ServiceProcess) -> Iterator[str]:
    from playground_browser import playground

    with playground(service.port) as url:
        yield url


def marks(page: Page, kind: str) -> list[str]:
    """What the marks of a kind say when one points at them."""
    return page.locator(f"#curves line.{kind} title").all_text_contents()


def test_a_checkpoint_is_chosen_and_kept_while_the_trainer_publishes(
    context: BrowserContext, url: str, service: ServiceProcess, volume: Path
) -> None:
    page = open_page(context, url)
    set_sampling(page, "prompt", most_tokens="8")
    offered(page, "prompt", "toy@5").click()
    train_toy(volume)
    service.wait_serving("toy@12")
    assert offered(page, "prompt", "toy@12").is_visible(), "the new one can be chosen"
    page.keyboard.press("Escape")
    assert page.input_value("#prompt-model input") == "toy@5"
    ask(page, "1 + 1")
    assert "toy@5" in wait_said(page, "first token after")
    offered(page, "prompt", "newest").click()
    ask(page, "1 + 1")
    assert "toy@12" in wait_said(page, "toy@12")


def test_curves_marks_and_samples_appear_as_it_learns(
    context: BrowserContext, url: str, service: ServiceProcess, volume: Path
) -> None:
    page = open_page(context, url)
    open_tab(page, "Watch it learn")
    page.wait_for_function("document.querySelector('#served').innerText.includes('toy@5')")
    early = page.locator("#curves polyline.train").get_attribute("points") or ""
    train_toy(volume)
    service.wait_serving("toy@12")
    damaged_steps.truncate(volume, BROKEN_STEP)
    page.locator("#curves line.refusal").wait_for(state="attached")
    assert f"toy@{BROKEN_STEP} refused" in marks(page, "refusal")[0]
    assert {"toy@5 took over", "toy@12 took over"} <= set(marks(page, "swap"))
    late = page.locator("#curves polyline.train").get_attribute("points") or ""
    assert len(late.split()) > len(early.split()) > 1, "training goes on"
    assert page.locator("#curves polyline.held-out").count() == 1
    assert "step 12" in page.inner_text("#samples")
    assert "1 + 1" in page.inner_text("#samples")


def test_one_prompt_is_compared_side_by_side(
    context: BrowserContext, url: str, service: ServiceProcess, volume: Path
) -> None:
    train_toy(volume)
    service.wait_serving("toy@12")
    page = open_page(context, url)
    open_tab(page, "Watch it learn")
    page.get_by_label("number input for Most tokens").locator("visible=true").fill("8")
    page.locator("#beside-prompt textarea").fill("1 + 1")
    for name in ("toy@5", "toy@12"):
        picker = page.locator("#compared")
        picker.locator("input").click()
        picker.get_by_role("option", name=name).click()
    page.keyboard.press("Escape")
    page.click("#compare")
    cards = page.locator("#beside .card")
    cards.nth(1).wait_for()
    assert page.locator("#beside h3").all_inner_texts() == ["toy@5", "toy@12"]
    texts = page.locator("#beside p").all_inner_texts()
    assert all(text.startswith("1 + 1") and len(text) > len("1 + 1") for text in texts)

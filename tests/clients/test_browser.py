"""Pages in Chromium: ``fetch`` from another origin, ``EventSource`` behind a backend of its own.

An ``EventSource`` can only GET, so a page that uses one has a backend that asks for it and passes
the answer on as it is: the browser's own parser reads our frames then, too.
"""

import itertools
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from machine_tools import require_tool
from serving import ServiceProcess, wait_until
from serving.background_server import BackgroundServer, Quiet
from toys import publish_toy

pytest.importorskip("playwright")

from playground_browser import chromium
from playwright.sync_api import Error, Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STEP_S = 0.05
BODY = {"prompt": "To be", "max_new_tokens": 20, "seed": 3, "stream": True}

FETCH = """async ([url, body, most]) => {
    const leaving = new AbortController();
    const answer = await fetch(url, {
        method: "POST",
        headers: {"content-type": "application/json", "x-request-id": "of-a-page"},
        body: JSON.stringify(body),
        signal: leaving.signal,
    });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    const pieces = [], times = [];
    while (pieces.length < most) {
        const {value, done} = await reader.read();
        if (done) break;
        pieces.push(value);
        times.push(performance.now());
    }
    leaving.abort();
    const header = name => answer.headers.get(name);
    return {
        status: answer.status, said: pieces.join(""), times: times,
        headers: [header("x-request-id"), header("x-nestling-checkpoint")],
    };
}"""
"""Reads a streamed answer, at most so many pieces of it, and leaves."""

EVENT_SOURCE = """url => new Promise((resolve, reject) => {
    const source = new EventSource(url);
    const said = [];
    source.onmessage = event => {
        if (event.data === "[DONE]") { source.close(); resolve(said); }
        else said.push(event.data);
    };
    source.onerror = () => { source.close(); reject(new Error("no stream")); };
})"""


class Site(Quiet, BaseHTTPRequestHandler):
    """An empty page, and the backend that its ``EventSource`` asks."""

    service: str

    def do_GET(self) -> None:
        """Say nothing, or what the service says."""
        is_stream = self.path == "/events"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if is_stream else "text/html")
        self.end_headers()
        if is_stream:
            with httpx.stream("POST", f"{self.service}/generate", json=BODY) as answer:
                for piece in answer.iter_bytes():
                    self.wfile.write(piece)


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with BackgroundServer(Site) as server:
        yield server.url


@pytest.fixture(scope="module")
def service(site: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    volume: Path = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 1)
    options = {"step_delay_s": STEP_S, "cors_origins": site, "keep_alive_s": STEP_S / 2}
    with ServiceProcess(volume, **options) as service:
        service.wait_serving("toy@1")
        Site.service = str(service.client.base_url).rstrip("/")
        yield service


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium(require_tool("chromium", package="chromium")) as browser:
        yield browser.new_page()


def test_a_fetch_of_another_origin_gets_token_by_token(
    page: Page, site: str, service: ServiceProcess
) -> None:
    page.goto(site)
    got = page.evaluate(FETCH, [f"{Site.service}/generate", BODY, 10**6])
    whole = service.client.post("/generate", json=BODY | {"stream": False}).json()
    assert got["status"] == 200
    assert got["headers"][0] == "of-a-page"
    assert got["headers"][1].startswith("toy@1;fingerprint=")
    assert text_of(got["said"].split("\n\n")) == whole["text"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(got["times"])]
    assert sum(gap > 1000 * STEP_S / 4 for gap in gaps) >= 10, "as they come, not all at the end"


def test_a_page_that_aborts_its_fetch_ends_the_request(
    page: Page, site: str, service: ServiceProcess
) -> None:
    page.goto(site)
    before = service.metrics().by_label("requests_total", "outcome")["abort"]
    body = BODY | {"max_new_tokens": 200}
    assert page.evaluate(FETCH, [f"{Site.service}/generate", body, 2])["status"] == 200

    def is_aborted() -> bool:
        return service.metrics().by_label("requests_total", "outcome")["abort"] == before + 1

    wait_until(is_aborted, "it is aborted", timeout_s=5)


def test_an_event_source_reads_the_frames(page: Page, site: str, service: ServiceProcess) -> None:
    page.goto(site)
    said = page.evaluate(EVENT_SOURCE, f"{site}/events")
    whole = service.client.post("/generate", json=BODY | {"stream": False}).json()
    assert text_of([f"data: {event}" for event in said]) == whole["text"]
    assert json.loads(said[-1])["usage"] == whole["usage"]


def test_a_page_of_another_origin_gets_nothing(page: Page, site: str) -> None:
    page.goto(site.replace("127.0.0.1", "localhost"))
    with pytest.raises(Error, match="Failed to fetch"):
        page.evaluate(FETCH, [f"{Site.service}/generate", BODY, 10**6])


def text_of(frames: list[str]) -> str:
    """Texts of all events, without comments and the end marker."""
    events = [frame.removeprefix("data: ") for frame in frames if frame.startswith("data: {")]
    said: list[dict[str, Any]] = [json.loads(event) for event in events]
    return "".join(event["text"] for event in said)

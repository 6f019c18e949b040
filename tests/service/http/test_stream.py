"""Frames on the wire, and clients that leave: each step of the model is in the test's hand."""

import asyncio
import json
from pathlib import Path

import pytest
from fastapi import Request
from serving import GatedService, RawClient, wait_until
from starlette.types import Message

from service.http.stream import ClientGone, sse, until_gone

LEAVING = ("close", "reset", "half_close")


def test_an_event_is_one_line_of_json_and_an_empty_one() -> None:
    assert sse('{"a": 1}') == 'data: {"a": 1}\n\n'


def test_frames_are_exactly_what_the_contract_says(gated: GatedService) -> None:
    gated.decoder.open()
    client = RawClient.generate(gated.port, prompt="ab", max_new_tokens=2, seed=1, stream=True)
    received = client.read_until(b"data: [DONE]\n\n").decode()
    client.close()
    head, body = received.split("\r\n\r\n", 1)
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    frames = [line for line in body.split("\r\n") if line.startswith("data: ")]
    assert frames[-1] == "data: [DONE]\n\n"
    events = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-1]]
    assert [sorted(event) for event in events[:2]] == [["text", "token_id"]] * 2
    final = ["checkpoint", "finish_reason", "seed", "text", "timings", "usage"]
    assert [sorted(event) for event in events[2:]] == [final]


def test_a_silent_stream_sends_comments(tmp_path: Path) -> None:
    with GatedService(tmp_path, keep_alive_s=0.02) as gated:
        body = {"prompt": "ab", "max_new_tokens": 2, "seed": 1, "stream": True}
        client = RawClient.generate(gated.port, **body)
        head = client.read_until(b": keep-alive\n\n")
        assert head.startswith(b"HTTP/1.1 200 OK"), "headers go out before the first token"
        assert b"data: " not in head
        gated.decoder.release()
        after_one = client.read_until(b"data: ")
        client.received = b""
        assert b"data: " not in client.read_until(b": keep-alive\n\n")
        gated.decoder.open()
        client.read_until(b"data: [DONE]\n\n")
        client.close()
        assert after_one.count(b"data: ") == 1


def wait_and_leave(gated: GatedService, client: RawClient, how: str, count: int = 1) -> None:
    """Leave ``count`` answers during a step, and let this step alone end."""
    getattr(client, how)()
    gated.wait_for_commands(2 * count)
    gated.decoder.release()
    wait_until(lambda: gated.runtime.switchboard.num_open == 0, "the request is given up")
    client.close()


def check_aborted(gated: GatedService, count: int = 1) -> None:
    """Everything was given back, the abort counted, the next request served."""
    metrics = gated.metrics()
    outcomes = metrics.by_label("requests_total", "outcome")
    assert {name: value for name, value in outcomes.items() if value} == {"abort": count}
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_ratio"):
        assert metrics.value(name) == 0, name
    gated.decoder.open()
    assert gated.client.post("/generate", json={"prompt": "a"}).status_code == 200


@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("steps", [1, 3], ids=["first chunk", "later chunk"])
def test_leaving_during_prefill_frees_the_slot_within_one_step(
    gated: GatedService, how: str, stream: bool, steps: int
) -> None:
    prompt = "0123456789"  # ten tokens, two a step
    client = RawClient.generate(gated.port, prompt=prompt, stream=stream)
    for _ in range(steps - 1):
        gated.decoder.release()
    gated.wait_for_steps(steps)
    wait_and_leave(gated, client, how)
    assert gated.decoder.num_begun == steps
    check_aborted(gated)


@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_leaving_during_decode_frees_the_slot_within_one_step(
    gated: GatedService, how: str, stream: bool
) -> None:
    client = RawClient.generate(gated.port, prompt="01", stream=stream, seed=1)
    gated.decoder.release(3)
    gated.wait_for_steps(4)
    if stream:
        client.read_until(b"data: ")
    wait_and_leave(gated, client, how)
    assert gated.decoder.num_begun == 4
    check_aborted(gated)


@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_leaving_the_queue_takes_no_slot(gated: GatedService, how: str, stream: bool) -> None:
    running = RawClient.generate(gated.port, prompt="01", max_new_tokens=5, seed=1)
    gated.wait_for_steps(1)
    waiting = RawClient.generate(gated.port, prompt="01", stream=stream)
    gated.wait_for_commands(2)
    gated.decoder.release(2)  # the worker reads the submission and reports the step after it
    wait_until(lambda: gated.metrics().value("num_requests_waiting") == 1, "the second waits")
    gated.wait_for_steps(3)
    getattr(waiting, how)()
    gated.wait_for_commands(3)
    gated.decoder.release(2)  # the step under way, and the one that the abort is reported with
    wait_until(lambda: gated.runtime.switchboard.num_open == 1, "the waiting one is given up")
    waiting.close()
    assert gated.metrics().value("num_requests_waiting") == 0
    assert gated.metrics().value("request_queue_time_seconds_count") == 1, "it never started"
    gated.decoder.open()
    assert b'"finish_reason":"length"' in running.read_until(b"total_s")
    running.close()


@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("steps", [1, 5], ids=["prefill", "decode"])
def test_leaving_several_answers_ends_all_within_one_step(
    tmp_path: Path, how: str, stream: bool, steps: int
) -> None:
    """Two of four run and two wait."""
    with GatedService(tmp_path, num_slots=2, max_step_tokens=3) as gated:
        client = RawClient.generate(gated.port, prompt="0123", stream=stream, n=4, seed=1)
        for _ in range(steps - 1):
            gated.decoder.release()
        gated.wait_for_steps(steps)
        assert gated.runtime.switchboard.num_open == 4
        wait_and_leave(gated, client, how, count=4)
        assert gated.decoder.num_begun == steps
        check_aborted(gated, count=4)


def test_a_client_that_leaves_before_its_body_is_whole_is_none(gated: GatedService) -> None:
    client = RawClient(gated.port)
    client.send(b"POST /generate HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n{")
    client.close()
    gated.decoder.open()
    assert gated.client.post("/generate", json={"prompt": "a"}).status_code == 200
    assert gated.metrics().total("requests_total") == 1


def race(*, client_leaves: bool) -> str:
    """Race some work against a client; returns who won and how the work ended."""
    story = []

    async def receive() -> Message:
        if not client_leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def work() -> str:
        try:
            await asyncio.sleep(0.02 if not client_leaves else 60)
        except asyncio.CancelledError:
            story.append("cancelled")
            raise
        return "done"

    async def main() -> None:
        try:
            story.append(await until_gone(Request({"type": "http"}, receive), work()))
        except ClientGone:
            story.append("gone")
        await asyncio.sleep(0)

    asyncio.run(main())
    return " ".join(sorted(story))


def test_work_and_client_race() -> None:
    assert race(client_leaves=False) == "done"
    assert race(client_leaves=True) == "cancelled gone"


def test_what_the_work_raises_is_raised() -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(until_gone(Request({"type": "http"}, receive), work()))

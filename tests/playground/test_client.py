import asyncio
import json
from typing import Any

import httpx
import pytest

from playground.client import Json, Problem, Service


def answering(status: int, content: str, **headers: str) -> Service:
    """A service that answers everything like this."""

    def answer(request: httpx.Request) -> httpx.Response:
        headers_given = {"content-type": "text/event-stream"} | headers
        return httpx.Response(status, content=content, headers=headers_given)

    return Service(url="http://service", api_key="sk", transport=httpx.MockTransport(answer))


def failing(error: Exception) -> Service:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    return Service(url="http://service", transport=httpx.MockTransport(fail))


def events_of(service: Service) -> list[Json]:
    async def collect() -> list[Json]:
        return [event async for event in service.stream("/generate", {"prompt": "a"})]

    return asyncio.run(collect())


def test_events_are_read_as_they_come_and_comments_are_passed_over() -> None:
    stream = ': keep-alive\n\ndata: {"text": "a"}\n\ndata: {"text": "b"}\n\ndata: [DONE]\n\n'
    assert events_of(answering(200, stream)) == [{"text": "a"}, {"text": "b"}]


def test_an_error_in_the_midst_of_a_stream_is_a_problem() -> None:
    stream = 'data: {"text": "a"}\n\ndata: {"error": {"message": "it broke"}}\n\n'
    with pytest.raises(Problem, match="it broke"):
        events_of(answering(200, stream))


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (422, {"error": {"message": "prompt is too long"}}, "prompt is too long"),
        (429, {"error": {"message": "queue"}}, "the service is busy; try again in 7 s"),
        (502, "no JSON", "Bad Gateway"),
    ],
)
def test_a_refusal_is_said_in_the_service_s_words(status: int, body: Any, said: str) -> None:
    service = answering(status, json.dumps(body), **{"retry-after": "7"})
    with pytest.raises(Problem, match=said):
        events_of(service)
    with pytest.raises(Problem, match=said):
        asyncio.run(service.get("/checkpoints"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ConnectError("refused"), "cannot be reached just now"),
        (httpx.ReadTimeout("slow"), "did not answer in time"),
        (httpx.RemoteProtocolError("gone"), "broke off"),
    ],
)
def test_a_connection_that_fails_is_said_in_words(error: Exception, said: str) -> None:
    with pytest.raises(Problem, match=said):
        events_of(failing(error))


def test_the_key_goes_with_every_call() -> None:
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(200, json={})

    service = Service(url="http://s", api_key="sk", transport=httpx.MockTransport(answer))
    asyncio.run(service.get("/version"))
    asyncio.run(service.post("/generate", {}))
    assert seen == ["Bearer sk", "Bearer sk"]

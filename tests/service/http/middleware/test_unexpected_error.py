import asyncio
import logging

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.http.middleware.unexpected_error import FaultMiddleware
from service.requests.request_start import Arrival

STATE = {"arrival": Arrival(0.0, "/generate", "mine"), "is_accepted": True}
SCOPE: Scope = {"type": "http", "state": STATE}


def answer(*, after: int) -> list[Message]:
    """What is sent by an app that raises after so many messages of its own."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = [
            {"type": "http.response.start", "status": 200, "headers": []},
            {"type": "http.response.body", "body": b"half", "more_body": True},
        ]
        for message in messages[:after]:
            await send(message)
        raise KeyError("/a/secret/path")

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(FaultMiddleware(app)(dict(SCOPE), receive, send))
    return sent


def test_a_bug_is_a_500_that_says_nothing_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        start, body = answer(after=0)
    assert start["status"] == 500
    assert b'"code":"internal_error"' in body["body"]
    assert b"secret" not in body["body"]
    (record,) = caplog.records
    assert "request mine" in record.message
    assert record.exc_info is not None


@pytest.mark.parametrize("after", [1, 2])
def test_an_answer_that_has_begun_is_not_begun_again(after: int) -> None:
    with pytest.raises(KeyError, match="secret"):
        answer(after=after)

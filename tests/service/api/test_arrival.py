import asyncio
import itertools
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from service.api.arrival import Arrival, ArrivalMiddleware


def pass_through(scope: Scope) -> Scope:
    """What the app behind the middleware sees; the clock reads 1, 2, 3, …"""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, await receive()))

    async def receive() -> Message:
        return {"type": "http.request", "clock": next(clock)}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    clock = itertools.count(1)
    middleware = ArrivalMiddleware(app, clock=lambda: float(next(clock)))
    asyncio.run(middleware(scope, receive, send))
    ((got, message),) = seen
    assert message["type"] == "http.request"
    return {**got, "first_message_at": message["clock"]}


def test_a_request_is_stamped_before_its_body_is_read() -> None:
    scope = pass_through({"type": "http", "path": "/generate"})
    assert scope["state"]["arrival"] == Arrival(1.0, "/generate")
    assert scope["first_message_at"] == 2


def test_what_others_put_into_the_state_stays() -> None:
    state = pass_through({"type": "http", "path": "/generate", "state": {"pool": 1}})["state"]
    assert state == {"pool": 1, "arrival": Arrival(1.0, "/generate")}


def test_what_is_no_request_is_left_alone() -> None:
    assert "state" not in pass_through({"type": "lifespan"})

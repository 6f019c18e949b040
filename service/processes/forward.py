"""Routes that the engine's process answers whole: what is about checkpoints, health and numbers.

In an HTTP process ``ForwardMiddleware`` stands innermost, behind keys and limits, and sends such a
request on; in the engine's process ``Inside`` answers it with the same routes.
"""

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.arrival import Arrival
from service.api.errors import respond
from service.api.faults import FaultMiddleware
from service.api.guard import HEALTH
from service.api.limits import BROKEN
from service.app import add_rooms
from service.errors import NotReady
from service.runtime import Runtime

PATHS = HEALTH | {"/metrics", "/version", "/info", "/checkpoints", "/checkpoints/reload"}
PREFIXES = ("/v1/models", "/runs/")

Ask = Callable[[dict[str, Any], bytes], Awaitable[tuple[dict[str, Any], bytes]]]


class ForwardMiddleware:
    """Asks the engine's process; while there is none, health is told here, and the rest is 503."""

    def __init__(self, app: ASGIApp, ask: Ask, is_there: Callable[[], bool]) -> None:
        self._app = app
        self._ask = ask
        self._is_there = is_there

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send on, or pass on."""
        if scope["type"] != "http" or not _is_asked_inside(scope["path"]):
            await self._app(scope, receive, send)
            return
        if self._is_there():
            body = await _body(receive)
            try:
                head, content = await self._ask(_head(scope), body)
            except NotReady:
                pass
            else:
                headers = [
                    (name.encode("latin-1"), v.encode("latin-1")) for name, v in head["headers"]
                ]
                start = {
                    "type": "http.response.start",
                    "status": head["status"],
                    "headers": headers,
                }
                await send(start)
                await send({"type": "http.response.body", "body": content})
                return
        if scope["path"] in HEALTH:
            await self._app(scope, receive, send)
            return
        await respond(NotReady(BROKEN))(scope, receive, send)


class Inside:
    """Answers what was sent on, with the routes of a whole service."""

    def __init__(self, runtime: Runtime) -> None:
        app = FastAPI()
        app.state.runtime = runtime
        app.add_middleware(FaultMiddleware)
        add_rooms(app)
        self._app = app

    async def answer(self, head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """Status, headers and body."""
        said: dict[str, Any] = {}
        content = bytearray()

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                pairs = message["headers"]
                said["status"] = message["status"]
                said["headers"] = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in pairs]
            else:
                content.extend(message.get("body", b""))

        await self._app(_scope(head), receive, send)
        return said, bytes(content)


def _is_asked_inside(path: str) -> bool:
    return path in PATHS or path.startswith(PREFIXES)


async def _body(receive: Receive) -> bytes:
    content = bytearray()
    while True:
        message = await receive()
        content += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(content)


def _head(scope: Scope) -> dict[str, Any]:
    return {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode("latin-1"),
        "headers": [(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"]],
        "arrival": dataclasses.asdict(scope["state"]["arrival"]),
    }


def _scope(head: dict[str, Any]) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": head["method"],
        "path": head["path"],
        "raw_path": head["path"].encode(),
        "root_path": "",
        "query_string": head["query"].encode("latin-1"),
        "headers": [(n.encode("latin-1"), v.encode("latin-1")) for n, v in head["headers"]],
        "client": None,
        "server": None,
        "state": {"arrival": Arrival(**head["arrival"])},
    }

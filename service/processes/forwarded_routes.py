"""Routes that the engine's process answers whole: what is about checkpoints, health and numbers.

In an HTTP process ``ForwardRoute`` stands before the others, behind keys and limits, and sends such
a request on; in the engine's process ``Inside`` answers it with the same routes.
"""

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.routing import BaseRoute, Match
from starlette.types import Message, Receive, Scope, Send

from service.errors import NotReady
from service.http.app import add_rooms
from service.http.middleware.api_key import HEALTH
from service.http.middleware.unexpected_error import FaultMiddleware
from service.http.protocols.nestling.schemas import Health
from service.requests.request_start import Arrival
from service.runtime import Runtime

PATHS = HEALTH | {"/metrics", "/version", "/info", "/checkpoints", "/checkpoints/reload"}
PREFIXES = ("/v1/models", "/runs/")

Ask = Callable[[dict[str, Any], bytes], Awaitable[tuple[dict[str, Any], bytes]]]


class ForwardRoute(BaseRoute):
    """Comes before all other routes; where there is no engine any more, it says so itself."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the engine's process is to answer."""
        is_inside = scope["type"] == "http" and (
            scope["path"] in PATHS or scope["path"].startswith(PREFIXES)
        )
        return (Match.FULL if is_inside else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send on; raises ``NotReady`` without an engine, but for health."""
        body = await Request(scope, receive).body()
        try:
            head, content = await self._ask(_head(scope), body)
        except NotReady as error:
            if scope["path"] not in HEALTH:
                raise
            is_alive = scope["path"] != "/healthz"
            health = Health(status="not_ready" if is_alive else "broken", reason=error.message)
            await JSONResponse(health.model_dump(), 503)(scope, receive, send)
            return
        headers = [(name.encode("latin-1"), v.encode("latin-1")) for name, v in head["headers"]]
        start = {"type": "http.response.start", "status": head["status"], "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": content})


class Inside:
    """Answers what was sent on, with the routes of a whole service."""

    def __init__(self, runtime: Runtime) -> None:
        app = FastAPI(redirect_slashes=False)
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

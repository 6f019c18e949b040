"""Who may ask at all: whoever has one of the service's keys, if it has any.

It stands before the routes instead of in them, so that none can be forgotten: pages, the schema
and paths that do not exist are guarded like the rest.
"""

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Unauthorized
from service.http.errors import respond
from service.settings.keys import Keyring

HEALTH = frozenset({"/healthz", "/readyz", "/health"})
"""Paths that never need a key: who watches the service need not be trusted with it."""
METRICS = "/metrics"


class KeyMiddleware:
    """Passes requests with a known key on, with its owner in their ``Arrival``."""

    def __init__(self, app: ASGIApp, keys: Keyring, unguarded: Collection[str]) -> None:
        self._app = app
        self._keys = keys
        self._unguarded = unguarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at the key before anything else of the request."""
        if scope["type"] != "http" or scope["path"] in self._unguarded:
            await self._app(scope, receive, send)
            return
        key = bearer_token(scope["headers"])
        owner = self._keys.owner(key)
        if owner is None:
            needed = "a key is needed: Authorization: Bearer KEY"
            error = Unauthorized("this key is not known here" if key else needed)
            await respond(error)(scope, receive, send)
            return
        state = scope["state"]
        state["arrival"] = dataclasses.replace(state["arrival"], client=owner)
        await self._app(scope, receive, send)


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The token of an ``Authorization: Bearer`` header (RFC 6750); empty without one."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
    return ""


def say_keys_in_schema(app: FastAPI, unguarded: Collection[str]) -> None:
    """Tell the OpenAPI page, and clients made from it, where a key is needed."""
    build = app.openapi

    def openapi() -> dict[str, Any]:
        schema = build()
        schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["ApiKey"] = {"type": "http", "scheme": "bearer"}
        schema["security"] = [{"ApiKey": []}]
        for path in unguarded:
            schema["paths"][path]["get"]["security"] = []
        return schema

    app.openapi = openapi  # type: ignore[method-assign]

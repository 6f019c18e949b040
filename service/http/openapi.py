"""What the OpenAPI page says beyond the routes' types: examples, streams, no errors but ours."""

import asyncio
import functools
import json
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.routing import Route

from service.http.examples import ERROR, EXAMPLES, PATH_EXAMPLES, TGI_ERROR, Example

FOREIGN = "HTTPValidationError"
"""FastAPI's own shape of an error, which it puts on every route and which nobody ever gets."""


def complete_page(app: FastAPI) -> None:
    """Have the page be the contract, and be made once: it takes as long as many tokens."""
    build = app.openapi

    @functools.cache
    def openapi() -> dict[str, Any]:
        schema = build()
        for name in (FOREIGN, "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                _complete(operation, EXAMPLES[path])
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    _serve(app)


def _serve(app: FastAPI) -> None:
    """Answer with bytes that are made in another thread, when somebody first asks for them."""
    made = asyncio.Lock()
    page = b""

    async def answer(_: Request) -> Response:
        nonlocal page
        async with made:
            page = page or await asyncio.to_thread(lambda: json.dumps(app.openapi()).encode())
        return Response(page, media_type="application/json")

    assert app.openapi_url is not None
    route = Route(app.openapi_url, answer, include_in_schema=False)
    app.router.routes[:] = [
        route if isinstance(old, Route) and old.path == route.path else old
        for old in app.router.routes
    ]
    assert route in app.router.routes


def _complete(operation: dict[str, Any], example: Example) -> None:
    """Add to one route's entry; a second time changes nothing."""
    responses = operation["responses"]
    if FOREIGN in str(responses.get("422")):
        del responses["422"]
    for response in responses.values():
        for content in response.get("content", {}).values():
            shape = content.get("schema", {}).get("$ref", "")
            if shape.endswith(("TGIError", "ErrorBody")):
                content["example"] = TGI_ERROR if shape.endswith("TGIError") else ERROR
    responses["200"]["content"] = _answers(responses["200"].get("content", {}), example)
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter["example"] = PATH_EXAMPLES[parameter["name"]]
    if example.body is not None:
        operation["requestBody"]["content"]["application/json"]["example"] = example.body


def _answers(content: dict[str, Any], example: Example) -> dict[str, Any]:
    """What a route answers with, by media type."""
    if isinstance(example.answer, str):
        return {"text/plain": {"schema": {"type": "string"}, "example": example.answer}}
    said = {}
    if example.answer is not None:
        said["application/json"] = content["application/json"] | {"example": example.answer}
    if example.last_event is not None:
        frames = [f"data: {json.dumps(example.last_event, ensure_ascii=False)}\n\n"]
        frames += ["data: [DONE]\n\n"] * example.ends_with_done
        stream = {"schema": {"type": "string"}, "example": "".join(frames)}
        said["text/event-stream"] = stream
    return said

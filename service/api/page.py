"""What the OpenAPI page says beyond the routes' types: examples, streams, no errors but ours."""

import json
from typing import Any

from fastapi import FastAPI

from service.api.examples import ERROR, EXAMPLES, PATH_EXAMPLES, TGI_ERROR, Example

FOREIGN = "HTTPValidationError"
"""FastAPI's own shape of an error, which it puts on every route and which nobody ever gets."""


def complete_page(app: FastAPI) -> None:
    """Have the page be the contract."""
    build = app.openapi

    def openapi() -> dict[str, Any]:
        schema = build()
        for name in (FOREIGN, "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                _complete(operation, EXAMPLES[path])
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


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

"""What a refusal can say beside "no": the path or field that was meant, limits in plain words."""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, get_args

from pydantic import AliasChoices, BaseModel
from starlette.routing import BaseRoute

NEAR = 0.75
"""Similarity from which a name is taken for another's misspelling."""
_NOT_SERVED = {
    "embeddings": "embeddings are",
    "images": "images are",
    "audio": "audio is",
    "moderations": "moderations are",
    "files": "files are",
    "batches": "batches are",
    "fine_tuning": "fine-tuning is",
    "assistants": "assistants are",
    "threads": "threads are",
    "vector_stores": "vector stores are",
    "rerank": "reranking is",
    "score": "scoring is",
    "realtime": "realtime sessions are",
    "responses": "the Responses API is",
    "messages": "Anthropic's Messages API is",
}
"""First parts of other services' paths, and what they are."""
_WORDS = (
    (re.compile(r"^(?:Input|List|String|Dictionary|Value) should (be|have) "), r"must \1 "),
    (re.compile(r" after validation"), ""),
    (re.compile(r"must be a valid (?:dictionary|object).*"), "must be an object"),
    (re.compile(r"^String should match pattern '\^\[0-9\].*"), "must be a token id, in digits"),
    (re.compile(r"^Field required$"), "is required"),
    (re.compile(r"^Extra inputs are not permitted$"), "is not a field here"),
)


def paths_of(routes: Iterable[BaseRoute]) -> set[str]:
    """Paths without parameters of all routes, those of included routers too."""
    paths: set[str] = set()
    for route in routes:
        included = getattr(route, "original_router", None)
        paths |= (
            {getattr(route, "path", None) or ""} if included is None else paths_of(included.routes)
        )
    return {path for path in paths if path and "{" not in path}


def path_hint(method: str, path: str, known: Collection[str]) -> str:
    """One sentence on a path that is not there."""
    parts = [part for part in path.split("/") if part]
    stripped = "/" + "/".join(part for part in parts if part != "v1")
    for meant in (f"/v1{stripped}", stripped, "/" + "/".join(parts)):
        if meant in known and meant != path:
            return f"no {method} {path}; did you mean {meant}?"
    first = parts[1] if parts[:1] == ["v1"] and len(parts) > 1 else (parts or [""])[0]
    if first in _NOT_SERVED:
        return f"no {method} {path}: {_NOT_SERVED[first]} not served"
    near = difflib.get_close_matches(path, known, n=1, cutoff=NEAR)
    return f"no {method} {path}" + (
        f"; did you mean {near[0]}?" if near else "; GET /docs lists all"
    )


def field_hint(name: str, model: object) -> str:
    """The known field that an unknown one is near to, as the end of a sentence."""
    paths = {path.rpartition(".")[2]: path for path in sorted(set(_fields(model)), reverse=True)}
    near = difflib.get_close_matches(name, paths, n=1, cutoff=NEAR)
    if not near:
        return ""
    return f"; did you mean {paths[name] if near[0] == name else near[0]}?"


def in_plain_words(message: str) -> str:
    """A limit without the validation library's way of speaking."""
    for spoken, plain in _WORDS:
        message = spoken.sub(plain, message)
    return message


def body_model(route: BaseRoute | None) -> object:
    """The type of a route's body; ``None`` if it has none."""
    field: Any = getattr(route, "body_field", None)
    return None if field is None else field.field_info.annotation


def _fields(
    model: object, inside: str = "", seen: frozenset[object] = frozenset()
) -> Iterator[str]:
    """Paths of all fields in a body, nested ones too."""
    if model in seen:
        return
    if isinstance(model, type) and issubclass(model, BaseModel):
        for name, field in model.model_fields.items():
            alias = field.validation_alias
            names = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
            paths = [f"{inside}{one}" for one in names if isinstance(one, str)]
            yield from paths
            yield from _fields(
                field.annotation, f"{paths[0]}." if paths else inside, seen | {model}
            )
    for part in get_args(model):
        yield from _fields(part, inside, seen)

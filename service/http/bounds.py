"""How much of each thing a body may have, and types that stop at the first thing that is wrong.

pydantic goes through a whole list and collects every error of it: a megabyte of wrong token ids
became half a gigabyte of errors. ``Few`` and ``Counted`` refuse what is too much before they look
at it, and a list's first wrong item is its only error.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

MAX_FIELDS = 128
"""Of one object: twice those of the largest body, so that a misspelt one is refused by name."""
MAX_PROMPTS = 1024
"""What may run and wait at once is less by default, and refuses sooner."""
MAX_PROMPT_IDS = 1 << 20
MAX_MESSAGES = 4096
"""A template takes some 20 µs a message. No message has less than a token, so that longer chats
fit no model of that many."""
MAX_PARTS = 4096
"""Of all messages together."""
MAX_TOOL_CALLS = 128
"""Of one message."""
MAX_SCHEMA_BYTES = 1 << 16
"""Of a JSON schema as compact JSON."""
MAX_SCHEMA_WIDTH = 1000
"""Of one object or list in it: what a grammar takes to build grows with the square of optional
properties, 0.3 s for so many and 6.9 s for 5,000 (llguidance 1.9, a shared core of an EPYC)."""

MAX_TOKEN_ID = 2**31 - 1
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
PromptIds = Annotated[list[TokenId], Field(max_length=MAX_PROMPT_IDS, fail_fast=True)]


def few_fields(body: object) -> object:
    """Refuse an object with more fields than any has: each unknown one would be an error."""
    if isinstance(body, dict) and len(body) > MAX_FIELDS:
        raise PydanticCustomError(
            "too_many_fields",
            "Object should have at most {most} fields, not {number}",
            {"most": MAX_FIELDS, "number": len(body)},
        )
    return body


def at_most(number: int) -> BeforeValidator:
    """Refuse an object with more entries before any is looked at."""

    def counted(value: object) -> object:
        if isinstance(value, dict) and len(value) > number:
            raise PydanticCustomError(
                "too_long", "Dictionary should have at most {number} items", {"number": number}
            )
        return value

    return BeforeValidator(counted)


def few_parts(messages: object) -> object:
    """Refuse too many messages, and messages with too many parts together."""
    if isinstance(messages, list):
        if len(messages) > MAX_MESSAGES:
            raise PydanticCustomError(
                "too_long", "List should have at most {number} items", {"number": MAX_MESSAGES}
            )
        contents = (message.get("content") for message in messages if isinstance(message, dict))
        number = sum(len(content) for content in contents if isinstance(content, list))
        if number > MAX_PARTS:
            raise PydanticCustomError(
                "too_long",
                "List should have at most {number} parts in all messages together",
                {"number": MAX_PARTS},
            )
    return messages


def check_schema_size(schema: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for a JSON schema that is too large, or too wide in one place."""
    try:
        size = len(json.dumps(schema, separators=(",", ":"), ensure_ascii=False).encode())
    except RecursionError as error:
        raise ValueError("the schema is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("the schema has half a surrogate pair") from error
    if size > MAX_SCHEMA_BYTES:
        raise ValueError(f"the schema has {size} bytes; it may have {MAX_SCHEMA_BYTES}")
    left: list[object] = [schema]
    while left:
        one = left.pop()
        inner = list(one.values()) if isinstance(one, dict) else one
        if isinstance(inner, list):
            if len(inner) > MAX_SCHEMA_WIDTH:
                raise ValueError(
                    f"the schema has {len(inner)} entries in one place; there may be "
                    f"{MAX_SCHEMA_WIDTH}"
                )
            left += inner

"""Bodies that cost a service more than whoever sends them, by the issue that each showed."""

import json
from typing import Any

from serving.burst import request_bytes

MEGABYTE = (1 << 20) - 4096
"""Just under the limit of a body."""


def filled(before: bytes, piece: bytes, after: bytes, size: int = MEGABYTE) -> bytes:
    """As many pieces as fit."""
    return before + piece * ((size - len(before) - len(after)) // len(piece)) + after


def too_many_answers(scale: float = 1.0) -> list[bytes]:
    """Small bodies that ask for thousands of answers."""
    prompts = [[7]] * int(500 * scale)
    return [
        request_bytes("/v1/completions", {"prompt": prompts, "n": 128, "max_tokens": 1}),
        request_bytes("/v1/completions", {"prompt": ["a"] * int(1000 * scale), "max_tokens": 1}),
        request_bytes("/v1/completions", {"prompt": ["a"] * int(2000 * scale), "max_tokens": 1}),
    ]


def wrong_everywhere(size: int = MEGABYTE) -> dict[str, bytes]:
    """Bodies in which every value is an error, by what is wrong."""
    chat = b'{"messages": [{"role": "user", "content": "a"'
    keys = b",".join(b'"%06d":1' % number for number in range(size // 11))
    bodies = {
        "ids": ("/v1/completions", filled(b'{"prompt": [[', b"-1,", b"-1]]}", size)),
        "prompts": ("/v1/completions", filled(b'{"prompt": [', b"[-1],", b"[-1]]}", size)),
        "mixed": ("/v1/completions", filled(b'{"prompt": ["a",', b'[-1],"",', b'""]}', size)),
        "fields": ("/generate", b'{"prompt": "a",' + keys + b"}"),
        "biases": ("/generate", b'{"prompt": "a", "logit_bias": {' + keys + b"}}"),
        "stops": ("/generate", filled(b'{"prompt": "a", "stop": [', b"1,", b"1]}", size)),
        "messages": ("/v1/chat/completions", filled(b'{"messages": [', b"1,", b"1]}", size)),
        "parts": (
            "/v1/chat/completions",
            filled(b'{"messages": [{"role": "user", "content": [', b"1,", b"1]}]}", size),
        ),
        "calls": (
            "/v1/chat/completions",
            filled(chat + b', "tool_calls": [', b"1,", b"1]}]}", size),
        ),
        "message fields": ("/v1/chat/completions", chat + b"," + keys + b"}]}"),
        "tgi": ("/", filled(b'{"inputs": "a", "parameters": {"stop": [', b"1,", b"1]}}", size)),
        "tgi fields": ("/generate", b'{"inputs": "a", "parameters": {' + keys + b"}}"),
        "tokens": ("/detokenize", filled(b'{"tokens": [', b"-1,", b"-1]}", size)),
        "tokenize": ("/tokenize", filled(b'{"messages": [', b"[],", b"1]}", size)),
        "lists": ("/generate", filled(b'{"prompt": [', b"[],", b"[]]}", size)),
        "deep": ("/generate", b"[" * size),
        "digits": ("/generate", filled(b'{"prompt": "a", "seed": ', b"1", b"}", size)),
    }
    return {name: request_bytes(route, body) for name, (route, body) in bodies.items()}


def long_texts(size: int = MEGABYTE) -> dict[str, bytes]:
    """Prompts that no model of these tests can take."""
    words = (b"It was the best of times, it was the worst of times. " * (size // 50))[: size - 100]
    return {
        "words": request_bytes("/generate", {"prompt": words.decode(), "max_new_tokens": 1}),
        "letters": request_bytes("/generate", {"prompt": "a" * (size - 100), "max_new_tokens": 1}),
        "text to tokens": request_bytes("/tokenize", {"prompt": words.decode()}),
        "tgi": request_bytes("/", {"inputs": words.decode()}),
        "ids": request_bytes("/v1/completions", {"prompt": [5] * (size // 4)}),
    }


def messages(number: int) -> bytes:
    """A chat of many messages."""
    turn = {"role": "user", "content": "a"}
    body = {"messages": [turn] * number, "max_completion_tokens": 1}
    return request_bytes("/v1/chat/completions", json.dumps(body, separators=(",", ":")).encode())


def schema(number: int, size: int) -> dict[str, Any]:
    """A schema of about so many bytes that is no other number's."""
    names = [f"field_{number}_{index}" for index in range(size // 46)]
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}}


def structured(schema: dict[str, Any]) -> bytes:
    """A chat whose answer is held to a schema."""
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    body = {"messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 4}
    return request_bytes("/v1/chat/completions", body | {"response_format": form})


def prompt_under_the_limit(number: int, size: int = 8000) -> bytes:
    """A prompt that was worked on in the event loop before."""
    text = f"{number} " + "It was the best of times, it was the worst of times. " * (size // 52)
    return request_bytes("/generate", {"prompt": text[:size], "max_new_tokens": 1})

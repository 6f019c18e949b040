"""Content of files that nobody expects: cut, flipped, empty, or with an odd value."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 2.5, 1e308, 10**30, "", "text", "\ud800", [], [1], {}, {"a": 1}),
    json.loads("[" * 200 + "]" * 200),
)


def damage(content: bytes, suffix: str, chance: random.Random) -> bytes:
    """A file's content with one thing wrong."""
    ways: list[Callable[[bytes, random.Random], bytes]] = [cut, flip, flip, empty]
    if suffix in (".json", ".yaml"):
        ways += [replace, replace, replace, replace]
    return chance.choice(ways)(content, chance)


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def flip(content: bytes, chance: random.Random) -> bytes:
    """Some bits of the beginning, where what describes the rest is."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 4, 32))):
        changed[chance.randrange(min(len(changed), 4096))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def empty(content: bytes, chance: random.Random) -> bytes:
    return chance.choice((b"", b"\0" * len(content), b"[]", b"\xff\xfe", b"null", b'"a"'))


def replace(content: bytes, chance: random.Random) -> bytes:
    """One value of a JSON or YAML file by an odd one."""
    values = yaml.safe_load(content) if content[:1] not in b"{[" else json.loads(content)
    at = values
    while isinstance(at, dict | list) and at:
        key = chance.choice([*at] if isinstance(at, dict) else range(len(at)))
        if not isinstance(at[key], dict | list) or not at[key] or chance.random() < 0.3:
            at[key] = chance.choice(ODD)
            break
        at = at[key]
    return json.dumps(values).encode()


def vouch(manifest: Path, damaged: Path) -> None:
    """Let a step's manifest say that a file is as it should be."""
    values = json.loads(manifest.read_text())
    content = damaged.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    values["files"][damaged.name] = {"size": len(content), "sha256": digest}
    manifest.write_text(json.dumps(values))

"""Starts the process in which a tokenizer is tried, and remembers what came of it by the bytes."""

import dataclasses
import functools
import hashlib
import json
import os
import pickle
import signal
from collections.abc import Mapping
from pathlib import Path

from lm.side_files import SideFiles
from lm.text.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, Tokenizer
from lm.trial.helper import Program

SIDE_FILES = (
    *(TOKENIZER_CONFIG_FILE, "special_tokens_map.json", "added_tokens.json"),
    *("generation_config.json", "config.json", "chat_template.jinja"),
)
MEMORY_BYTES = 1 << 30
"""Of address space, beside what the files' size allows; a usual tokenizer takes 0.2 GiB."""
PER_BYTE = 32
"""A vocabulary of 33 MB takes some 0.5 GiB while it is read."""
WALL_S = 120.0
"""On a machine that is busy with other work it may wait; its own time has a bound of its own."""
MAX_REMEMBERED = 64
_SIGNALS: Mapping[int, str] = {
    0: "memory",
    signal.SIGXCPU: "time",
    signal.SIGKILL: "time or memory",
    signal.SIGABRT: "memory",
}
"""What the limits end a process by, and Rust one that gets no memory."""


class Refused(ValueError):
    """A tokenizer or a template is not used; ``part`` says which."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """What the process said."""

    invalid: str | None = None
    """Why the files are no tokenizer."""
    part: str | None = None
    """What is refused: ``tokenizer`` or ``chat_template``."""
    message: str = ""


def load_tried(path: Path) -> Tokenizer:
    """``Tokenizer.load`` of what was tried out; raises ``Refused`` besides."""
    directory, name = (path, TOKENIZER_FILE) if path.is_dir() else (path.parent, path.name)
    return read_tried(SideFiles.of_directory(directory), name)


def read_tried(given: SideFiles, name: str = TOKENIZER_FILE) -> Tokenizer:
    """``Tokenizer.read`` of the very bytes that were tried out.

    Raises ``Refused`` besides, and ``OSError`` where nothing can be tried out just now.
    """
    found = {one: given.read(one) for one in (name, *SIDE_FILES)}
    contents = {one: content for one, content in found.items() if content is not None}
    if name not in contents:  # another kind of vocabulary, or none: what is made of it is tried
        tokenizer = Tokenizer.read(given, name)
        try_out(tokenizer)
        return tokenizer
    _judge(_tried(given.where, name, contents), given.where / name)
    return Tokenizer.read(SideFiles.given(given.where, contents), name)


def try_out(tokenizer: Tokenizer) -> None:
    """Raise ``Refused`` for one that was made here of what others wrote."""
    contents = {
        TOKENIZER_FILE: tokenizer.backend.to_str().encode(),
        TOKENIZER_CONFIG_FILE: tokenizer.config_json().encode(),
    }
    _judge(_tried(Path(), TOKENIZER_FILE, contents), Path(TOKENIZER_FILE))


def _judge(outcome: _Outcome, file: Path) -> None:
    if outcome.invalid is not None:
        raise ValueError(outcome.invalid)
    if outcome.part is not None:
        raise Refused(outcome.part, f"{file}: {outcome.message}")


def _tried(where: Path, name: str, contents: Mapping[str, bytes]) -> _Outcome:
    digest = hashlib.sha256(str(where).encode())  # which errors name
    for one, content in sorted(contents.items()):
        digest.update(f"\0{one}\0{len(content)}\0".encode())
        digest.update(content)
    known = _known()
    if digest.digest() not in known:
        if len(known) >= MAX_REMEMBERED:
            known.pop(next(iter(known)))
        known[digest.digest()] = _run(where, name, contents)
    return known[digest.digest()]


@functools.cache
def _known() -> dict[bytes, _Outcome]:
    """What is known of bytes, in this process."""
    return {}


def _run(where: Path, name: str, contents: Mapping[str, bytes]) -> _Outcome:
    memory = MEMORY_BYTES + PER_BYTE * sum(map(len, contents.values()))
    request = pickle.dumps((memory, str(where), name, dict(contents)))
    try:
        said = _program(os.getpid()).ask(request, WALL_S)
    except TimeoutError as error:
        raise TimeoutError(f"{where / name}: not tried out within {WALL_S:g} s") from error
    finally:
        if not _program(os.getpid()).is_running:
            _program.cache_clear()
    if said["answer"]:
        return _Outcome(**json.loads(said["answer"]))
    if said["code"] > 0:
        raise RuntimeError(
            f"{where / name}: the trial has failed; its fault is not the tokenizer's"
        )
    what = _SIGNALS.get(-said["code"], "of something")
    return _Outcome(part="tokenizer", message=f"it takes more {what} than it may")


@functools.cache
def _program(pid: int) -> Program:
    """Begun at the first trial of a process, before its threads have lowered their priority."""
    del pid  # a process that was forked begins its own
    return Program()

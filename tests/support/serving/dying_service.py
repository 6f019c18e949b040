"""``python dying_service.py CONTROL ARGUMENTS…``: the service with threads that a test kills.

A file in the directory CONTROL is an order: its name is a thread, its content what happens there
at the next chance: ``return``, or the name of what is raised. It is gone once it was obeyed.
"""

import asyncio
import builtins
import sys
from pathlib import Path
from typing import Any

from service.__main__ import main
from service.engine.engine import Engine
from service.engine.worker import Worker
from service.models.watcher import CheckpointWatcher
from service.observe import loop_lag as heartbeat
from service.processes.engine_client import Door
from service.requests.tracker import Switchboard

control = Path(sys.argv[1])


class Sudden(BaseException):
    """As a Rust panic: no ``Exception``."""


def order(name: str) -> str | None:
    """What is to happen to a thread now."""
    try:
        what = (control / name).read_text()
    except FileNotFoundError:
        return None
    (control / name).unlink()
    return what


def obey(name: str) -> bool:
    """Raise what was ordered; whether the thread is to return instead."""
    what = order(name)
    if what in (None, "return"):
        return what is not None
    raise getattr(builtins, str(what), Sudden)


def watched(name: str, kind: type[Any], method: str, flag: str | None) -> None:
    """Have a method obey first; ``flag`` is what makes its thread's loop end."""
    original = getattr(kind, method)

    def obeying(self: Any, *arguments: Any) -> Any:
        if obey(name):
            assert flag is not None
            setattr(self, flag, True)
            return None
        return original(self, *arguments)

    setattr(kind, method, obeying)


class Clock:
    """A sleep that obeys."""

    @staticmethod
    async def sleep(seconds: float) -> None:
        obey("heartbeat")
        await asyncio.sleep(seconds)


watched("watcher", CheckpointWatcher, "look", "_is_stopping")
watched("engine", Worker, "_take_turn", "_stopping")
watched("submit", Engine, "submit", None)
watched("events", Switchboard, "on_turn", None)
watched("cards", Door, "_card", None)
heartbeat.asyncio = Clock  # type: ignore[assignment]
sys.exit(main(sys.argv[2:]))

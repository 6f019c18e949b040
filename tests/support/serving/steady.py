"""What a steady stream and health checks notice while something else happens to the service.

``SteadyClient`` streams in a process of its own. ``alone`` and ``during`` give what it noticed in a
stretch of time: the largest gap between two tokens, the slowest health check, the service's memory.
``assert_unhurt`` is the siege's goal in one place.
"""

import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from serving.burst import request_bytes, volley
from serving.process import ServiceProcess
from serving.waiting import wait_until

PROGRAM = Path(__file__).with_name("steady_client.py")
MAX_GAP_S = 0.25
"""The goal of every attack: no longer pause of a stream, no slower health check."""
MAX_GAP_RATIO = 5.0
"""A busy machine gives the stream alone gaps, too: so many times the largest is allowed."""
MEMORY_SHARE = 0.10
MEMORY_SLACK_BYTES = 16 * 2**20
"""What the allocator and the interpreter keep of any work."""


@dataclasses.dataclass(frozen=True)
class Noticed:
    """One stretch of time, as a client beside sees it."""

    gap_s: float
    """Largest pause between two tokens of the stream, the ends of the stretch included."""
    health_s: float
    """Slowest answer of ``/healthz``."""
    tokens: int
    errors: tuple[str, ...]
    """Streams and health checks that failed."""
    resident_bytes: int
    """Memory of the service and its children at the stretch's end."""
    peak_bytes: int
    """The most that each of its processes ever held, added up."""

    def __str__(self) -> str:
        """One line for a table."""
        return (
            f"gap {self.gap_s * 1000:.0f} ms, health {self.health_s * 1000:.0f} ms, "
            f"{self.tokens} tokens, {len(self.errors)} errors, "
            f"{self.resident_bytes / 2**20:.0f} MiB (at most {self.peak_bytes / 2**20:.0f})"
        )


class SteadyClient:
    """Streams while entered; ``key`` is sent where the service asks for one."""

    def __init__(
        self, service: ServiceProcess, *, prompt: str = "To be", tokens: int = 200, key: str = ""
    ) -> None:
        self._service = service
        self._arguments = [str(service.port), prompt, str(tokens), key]
        self._said = tempfile.NamedTemporaryFile("w+", suffix=".jsonl")  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-S", str(PROGRAM), *self._arguments], stdout=self._said
        )
        wait_until(lambda: len(self._events("token")) > 10, "the steady stream runs", timeout_s=60)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None, "enter first"
        self._process.kill()
        self._process.wait()
        self._said.close()

    def alone(self, seconds: float = 1.5) -> Noticed:
        """What is noticed while nothing happens."""
        return self.during(lambda: time.sleep(seconds))

    def during(self, attack: Callable[[], object], *, after_s: float = 0.5) -> Noticed:
        """What is noticed from an attack's beginning to ``after_s`` behind its end."""
        began = time.monotonic()
        attack()
        time.sleep(after_s)
        ended = time.monotonic()
        self._wait_past(ended)
        return self._noticed(began, ended)

    def resident_bytes(self) -> int:
        """The service's memory now."""
        return _resident(self._service.process.pid)

    def _wait_past(self, ended: float) -> None:
        """Until the stream's next token: a pause that goes on is seen whole."""
        wait_until(
            lambda: self._events("token") and self._events("token")[-1][1] > ended,
            "the steady stream goes on",
            timeout_s=60,
        )

    def _noticed(self, began: float, ended: float) -> Noticed:
        tokens = [at for _, at in self._events("token")]
        before = max((at for at in tokens if at < began), default=began)
        behind = min(at for at in tokens if at >= ended)
        inside = [before, *(at for at in tokens if began <= at < ended), behind]
        health = [
            event for event in self._events("health") if event[2] >= began and event[1] < ended
        ]
        errors = [event[2] for event in self._events("error") if began <= event[1] < ended]
        errors += [f"/healthz said {status}" for _, _, _, status in health if status != 200]
        return Noticed(
            gap_s=max(later - earlier for earlier, later in itertools.pairwise(inside)),
            health_s=max((end - start for _, start, end, _ in health), default=0.0),
            tokens=len(inside) - 2,
            errors=tuple(errors),
            resident_bytes=self.resident_bytes(),
            peak_bytes=sum(map(_peak, _family(self._service.process.pid))),
        )

    def _events(self, kind: str) -> list[list[Any]]:
        lines = Path(self._said.name).read_text("utf-8").split("\n")[:-1]
        return [event for event in map(json.loads, lines) if event[0] == kind]


def touch_every_slot(service: ServiceProcess, *, num_slots: int = 32, tokens: int = 220) -> None:
    """Have every slot used as far as a steady stream uses one.

    The memory of a slot is there from its first use on: without this it would look as if an attack
    had left it behind.
    """
    body = {"max_new_tokens": tokens, "ignore_eos": True}
    requests = [
        request_bytes("/generate", {"prompt": f"{number} To be", **body})
        for number in range(num_slots)
    ]
    assert set(volley(service.port, requests)) == {200}


def assert_unhurt(under: Noticed, alone: Noticed, *, settled_bytes: int | None = None) -> None:
    """Nobody beside the attack noticed it.

    ``settled_bytes`` is the memory some time after the attack, compared with that before it. Prints
    the figures: ``pytest -rP`` shows those of attacks that passed.
    """
    settled = "" if settled_bytes is None else f"; {settled_bytes / 2**20:.0f} MiB afterwards"
    sys.stdout.write(f"siege: {under}{settled}; alone: {alone}\n")
    assert under.errors == (), under.errors[:3]
    noise_s = max(alone.gap_s, alone.health_s)  # of the machine: either has it by chance
    assert under.gap_s <= max(MAX_GAP_S, MAX_GAP_RATIO * noise_s), f"{under}; alone: {alone}"
    assert under.health_s <= max(MAX_GAP_S, MAX_GAP_RATIO * noise_s), f"{under}; alone: {alone}"
    if settled_bytes is not None:
        bound = alone.resident_bytes * (1 + MEMORY_SHARE) + MEMORY_SLACK_BYTES
        assert settled_bytes <= bound, f"{settled_bytes:,} bytes are kept; {alone}"


def _resident(pid: int) -> int:
    return sum(psutil.Process(one).memory_info().rss for one in _family(pid))


def _family(pid: int) -> list[int]:
    """A process and those below it."""
    return [pid, *(one.pid for one in psutil.Process(pid).children(recursive=True))]


def _peak(pid: int) -> int:
    """``VmHWM`` of proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024

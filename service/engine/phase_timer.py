"""Where the time of a step goes, as the worker's thread tells it while it works.

``Laps`` is told and forgets, which costs some ten empty calls a step; ``Profile`` adds up, by kind
of step. What the kernels take is told apart by their own clock.
"""

import collections
import dataclasses
import functools
import threading
import weakref
from collections.abc import Callable

from service.engine.native.runner import NativeRunner
from service.engine.pytorch.runner import StepRunner
from service.engine.request import StepStats

WAITING = "waiting"
"""For a request: no part of any step."""


class Laps:
    """Told at the end of each part of a turn; remembers nothing."""

    def lap(self, part: str) -> None:
        """A part has ended, and the next one begins."""

    def computed(self, runner: StepRunner) -> None:
        """A runner has computed a plan."""

    def end(self, stats: StepStats) -> None:
        """The turn has ended."""


@dataclasses.dataclass
class _Kind:
    """All turns of one kind."""

    steps: int = 0
    tokens: int = 0
    streams: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


class Profile(Laps):
    """Adds up seconds by kind of step and part; one thread tells, another may ask."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = clock()
        self._turn: dict[str, float] = {}
        self._waiting_s = 0.0
        self._loop_s = 0.0
        self._kinds: dict[str, _Kind] = collections.defaultdict(_Kind)
        self._kernels: weakref.WeakKeyDictionary[NativeRunner, dict[str, float]]
        self._kernels = weakref.WeakKeyDictionary()
        """The last readings of the native runners' own clocks."""
        self._lock = threading.Lock()

    def lap(self, part: str) -> None:
        """Count the time since the last lap to a part."""
        now = self._clock()
        self._count(part, now - self._last)
        self._last = now

    def computed(self, runner: StepRunner) -> None:
        """Count the time since the last lap to the kernels' parts, and the rest to the call."""
        began = self._last
        self._last = self._clock()
        elapsed = self._last - began
        if not isinstance(runner, NativeRunner):
            self._count("computing", elapsed)
            return
        reading = runner.profile()
        before = self._kernels.setdefault(runner, reading)  # warming up is no step of anybody's
        self._kernels[runner] = reading
        for part, seconds in reading.items():
            self._count(f"kernels: {part}", seconds - before[part])
            elapsed -= seconds - before[part]
        self._count("calling the kernels", elapsed)

    def end(self, stats: StepStats) -> None:
        """File the turn under its kind; what is not of a step waits for the next one."""
        with self._lock:
            self._waiting_s += self._turn.pop(WAITING, 0.0)
            if not stats.batch_size:
                return
            kind = self._kinds[_kind(stats)]
            kind.steps += 1
            kind.tokens += stats.num_tokens
            kind.streams += stats.batch_size
            for part, seconds in self._turn.items():
                kind.seconds[part] = kind.seconds.get(part, 0.0) + seconds
        self._turn.clear()

    def _count(self, part: str, seconds: float) -> None:
        self._turn[part] = self._turn.get(part, 0.0) + seconds

    def watched(self, function: Callable[..., None]) -> Callable[..., None]:
        """The same function, its time counted as the event loop's."""

        @functools.wraps(function)
        def timed(*arguments: object) -> None:
            began = self._clock()
            function(*arguments)
            self._loop_s += self._clock() - began

        return timed

    def report(self) -> dict[str, object]:
        """Milliseconds a step by part, for each kind of step, and what is not of any step."""
        with self._lock:
            return {
                "waiting_s": round(self._waiting_s, 3),
                "event_loop_hands_out_s": round(self._loop_s, 3),
                "steps": {name: _summary(kind) for name, kind in sorted(self._kinds.items())},
            }


def _kind(stats: StepStats) -> str:
    """What made a step as long as it was."""
    if stats.num_tokens - stats.num_draft_tokens > stats.batch_size:
        return "with a prompt"
    return "with guesses" if stats.num_draft_tokens else "one token a stream"


def _summary(kind: _Kind) -> dict[str, object]:
    longest_first = sorted(kind.seconds.items(), key=lambda item: -item[1])
    parts = {part: round(1000 * seconds / kind.steps, 4) for part, seconds in longest_first}
    return {
        "count": kind.steps,
        "streams": round(kind.streams / kind.steps, 2),
        "tokens": round(kind.tokens / kind.steps, 2),
        "ms": round(1000 * sum(kind.seconds.values()) / kind.steps, 4),
        "ms_by_part": parts,
    }

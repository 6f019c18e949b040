"""How a side of a comparison keeps step: it tells of every step and rests between rounds."""

import json
import sys
import time
from collections.abc import Sequence
from typing import TextIO


class Enough(Exception):
    """The last round is over."""


class Pace:
    """Writes a JSON line a step; after each round it waits for a line to go on."""

    def __init__(
        self, rounds: Sequence[int], out: TextIO = sys.stdout, commands: TextIO = sys.stdin
    ) -> None:
        self._rounds = list(rounds)
        self._out = out
        self._commands = commands
        self._left = 0
        self._mark = 0.0

    def rest(self) -> None:
        """Wait for the next round; raises ``Enough`` after the last one."""
        if not self._rounds:
            raise Enough
        self._commands.readline()
        self._left = self._rounds.pop(0)
        self._mark = time.perf_counter()

    def step(self, loss: float) -> None:
        """A step is over: whatever it took since the one before, or since the rest."""
        seconds = time.perf_counter() - self._mark
        print(json.dumps({"seconds": seconds, "loss": loss}), file=self._out, flush=True)
        self._left -= 1
        if not self._left:
            self.rest()
        self._mark = time.perf_counter()

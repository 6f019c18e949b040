"""Processes that are made to die: forked from one that has everything imported.

Imported once and forked often, so that a test of many deaths takes seconds. A script calls
``nurse`` with its functions; a test talks to it through ``Nursery``. Each line of the script's
standard input is a JSON object: which function to run, in which directory, with what. It says
``{"pid": …}`` when a child has started and ``{"status": …}`` (as ``os.waitpid``) when it is gone.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]


class Nursery:
    """The process that starts children, one at a time."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    @classmethod
    @contextlib.contextmanager
    def of(cls, script: Path) -> Iterator[Self]:
        """Run a script that calls ``nurse``."""
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
        with subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": paths},
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield cls(process)
            finally:
                os.killpg(process.pid, signal.SIGKILL)  # a child of a failed test too

    def start(self, function: str, directory: Path, **options: Any) -> int:
        """Start a child and say its process number."""
        order = {"function": function, "directory": str(directory), "options": options}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return int(self._answer()["pid"])

    def wait(self) -> int:
        """The child's exit status, or minus the signal that ended it."""
        return os.waitstatus_to_exitcode(self._answer()["status"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def nurse(functions: Mapping[str, Callable[..., object]]) -> None:
    """Fork a child for every line until the input ends."""
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            functions[order["function"]](Path(order["directory"]), **order["options"])
            os._exit(0)
        _say(pid=pid)
        _say(status=os.waitpid(pid, 0)[1])


def _say(**answer: int) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()

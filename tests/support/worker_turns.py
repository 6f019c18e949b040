"""Which tests may run at the same time, and in which order, when several workers share them.

Whole files go to a worker, so that what a module's or a folder's fixtures train, compile or start
is made once. A test marked ``alone`` measures times or counts cores: it begins when every other
worker has ended its test, and they begin their next when it has ended.
"""

import contextlib
import fcntl
import os
import secrets
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Self

import pytest


class Turns:
    """Locks that the workers of a session share.

    Whoever wants a turn passes the door. A test that runs alone keeps the door shut until it has
    the room for itself: others cannot come between, or it would wait for as long as they run.
    """

    def __init__(self, directory: Path) -> None:
        self._door = os.open(directory / "door", os.O_RDWR | os.O_CREAT)
        self._room = os.open(directory / "room", os.O_RDWR | os.O_CREAT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._room)
        os.close(self._door)

    @contextlib.contextmanager
    def take(self, *, alone: bool) -> Iterator[None]:
        """Wait for a turn; others may have theirs meanwhile unless it is ``alone``."""
        fcntl.flock(self._door, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)


TURNS = pytest.StashKey[Turns]()
DIRECTORY = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the locks' directory in the session's own process, open the locks in its workers."""
    given = getattr(config, "workerinput", None)
    if given is not None:
        config.stash[TURNS] = Turns(Path(given["turns"]))
    elif getattr(config.option, "numprocesses", None):
        directory = tempfile.TemporaryDirectory(prefix="turns-")
        config.add_cleanup(directory.cleanup)
        config.stash[DIRECTORY] = directory.name
        # Names of tests can hold a set: the workers write it in one order, another every session.
        os.environ.setdefault("PYTHONHASHSEED", str(secrets.randbelow(2**32)))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker where the locks are."""
    node.workerinput["turns"] = node.config.stash[DIRECTORY]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names with an address in them: every worker collects, and the names must agree."""
    if unstable := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"a test is named after an object's address: {unstable[0]}")


@pytest.hookimpl(wrapper=True, tryfirst=True)  # a test's timeout begins with its turn
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test, with its fixtures, in its turn."""
    turns = item.config.stash.get(TURNS, None)
    if turns is None:
        return (yield)
    with turns.take(alone=item.get_closest_marker("alone") is not None):
        return (yield)

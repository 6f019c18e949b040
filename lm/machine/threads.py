"""Threads and tasks whose root catches everything: a failure is counted and said, an end is seen.

``Exception`` is not everything: a Rust panic (pyo3's ``PanicException``), ``SystemExit`` and
``KeyboardInterrupt`` end a thread or a task, and Python then says little or nothing. A program has
one ``Roots``; each of its threads and lasting tasks runs under it. What fails begins again where
that is wanted; a thread that has ended unasked is in ``gone``, which health checks ask for.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

SAY_EVERY_S = 60.0
"""Of one thread's failures, one is logged with its traceback in so many seconds."""
AGAIN_AFTER_S = 1.0
"""A root that failed begins again that much later: a lasting fault costs no core."""

logger = logging.getLogger(__name__)


class Roots:
    """What the threads and tasks of one program came to. Any thread may call."""

    def __init__(
        self,
        on_failure: Callable[[str], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``on_failure`` counts, by the name of the thread or task."""
        self.on_failure = on_failure
        self._clock = clock
        self._said_at: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}
        self._threads: list[GuardedThread] = []

    @property
    def gone(self) -> tuple[str, ...]:
        """Names of the threads that matter and have ended unasked."""
        return tuple(one.name for one in self._threads if one.matters and one.is_gone)

    def failed(self, name: str, error: BaseException) -> None:
        """Count a failure, and log it unless one of this name was logged lately. Never raises."""
        with contextlib.suppress(BaseException):
            self.on_failure(name)
        with contextlib.suppress(BaseException):  # as a MemoryError while it is formatted
            self._say(name, error)

    @contextlib.contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """A part of a thread that may fail without what comes after it."""
        try:
            yield
        except BaseException as error:  # noqa: BLE001  a root catches everything
            self.failed(name, error)

    def thread(
        self,
        name: str,
        body: Callable[[], object],
        *,
        matters: bool = True,
        again: bool = False,
        on_gone: Callable[[], object] = lambda: None,
    ) -> "GuardedThread":
        """A thread that has not started; ``again``: what failed begins anew after a while."""
        thread = GuardedThread(self, name, body, matters=matters, again=again, on_gone=on_gone)
        self._threads.append(thread)
        return thread

    def task(self, name: str, work: Callable[[], Awaitable[object]]) -> "asyncio.Task[None]":
        """A task of the running loop that begins anew after a while when it fails."""
        return asyncio.get_running_loop().create_task(self._until_done(name, work), name=name)

    async def _until_done(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        is_done = False
        while not is_done:
            try:
                await work()
                is_done = True
            except (asyncio.CancelledError, GeneratorExit):
                raise  # the task is ended
            except BaseException as error:  # noqa: BLE001  a root catches everything
                self.failed(name, error)
                await asyncio.sleep(AGAIN_AFTER_S)

    def _say(self, name: str, error: BaseException) -> None:
        now = self._clock()
        said_at = self._said_at.get(name)
        if said_at is not None and now - said_at < SAY_EVERY_S:
            self._unsaid[name] = self._unsaid.get(name, 0) + 1
            return
        self._said_at[name] = now
        more = self._unsaid.pop(name, 0)
        since = f", and {more} times since it was said last" if more else ""
        logger.error("%s has failed%s", name, since, exc_info=error)


class GuardedThread:
    """A daemon thread under a program's ``Roots``."""

    def __init__(
        self,
        roots: Roots,
        name: str,
        body: Callable[[], object],
        *,
        matters: bool,
        again: bool,
        on_gone: Callable[[], object],
    ) -> None:
        self.name = name
        self.matters = matters
        """Whether the program is of no use without it."""
        self._roots = roots
        self._body = body
        self._again = again
        self._on_gone = on_gone
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_started(self) -> bool:
        """Whether ``start`` was called."""
        return self._thread.ident is not None

    @property
    def is_gone(self) -> bool:
        """Whether it has ended though nobody asked it to."""
        return self.is_started and not self._thread.is_alive() and not self._leaving.is_set()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def leave(self) -> None:
        """Say that its end is wanted from now on; the body has to be told by other means."""
        self._leaving.set()

    @property
    def is_running(self) -> bool:
        """Whether it was begun and has not ended."""
        return self._thread.is_alive()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for its end, if it was begun; no longer than so many seconds."""
        self.leave()
        if self.is_started:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._goes_well():
            if not self._again or self._leaving.wait(AGAIN_AFTER_S):
                break
        if not self._leaving.is_set():
            logger.critical("the thread %s has ended; the program has to be restarted", self.name)
            with self._roots.guard(self.name):
                self._on_gone()

    def _goes_well(self) -> bool:
        """Run the body; whether it returned."""
        try:
            self._body()
        except BaseException as error:  # noqa: BLE001  a root catches everything
            self._roots.failed(self.name, error)
            return False
        if not self._leaving.is_set():
            self._roots.failed(self.name, RuntimeError("it has returned, though nobody asked"))
        return True

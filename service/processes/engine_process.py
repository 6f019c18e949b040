"""The engine's process: a whole runtime, whose requests come from HTTP processes."""

import asyncio
import gc
import itertools
import logging
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from service.engine.served_model import ModelCard, ServedModel
from service.engine.worker import Turn
from service.models.loading.published_model import with_volume
from service.observe import memory
from service.observe.log_pipe import report_drops
from service.observe.metrics import Metrics
from service.processes.counters import SharedMetrics
from service.processes.forwarded_routes import Inside
from service.processes.multiplexer import Hub
from service.processes.session import Session
from service.runtime import Runtime
from service.settings.schema import Settings

ACCEPT_AGAIN_S = 0.5

logger = logging.getLogger(__name__)


class EngineRuntime(Runtime):
    """A runtime that hands its turns to HTTP processes instead of to replies."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        """``directory`` has the files that HTTP processes count in."""
        self._directory = directory
        super().__init__(settings)
        self.hub = Hub(self.metrics, self.admission, self.worker)
        self._hand_out = self._watched(self.hub.on_turn)
        self.sessions: set[Session] = set()
        self.numbers = itertools.count()
        """Of HTTP processes, in the order of their coming."""
        self.ended = asyncio.Event()
        """Whether there is nothing left to do: nobody is connected in a drain, or by a bug."""

    async def start(self) -> None:
        """Start the worker; lag is measured where clients are."""
        self._loop = asyncio.get_running_loop()
        report_drops(self.metrics.on_log_dropped)
        self.worker.start()

    def num_open_on(self, model: ModelCard) -> int:
        """Requests that a model answers, and cards of it in HTTP processes."""
        fingerprint = model.checkpoint.fingerprint
        num_held = sum(session.num_held(fingerprint) for session in tuple(self.sessions))
        return self.hub.num_open_on(model) + num_held

    def connect(self, sock: socket.socket, name: str, inside: Inside) -> None:
        """Begin to talk with an HTTP process."""
        self.sessions.add(Session(sock, name, self, self.hub, inside.answer, self._on_end))

    def begin_drain(self) -> None:
        """Accept nothing more, and end with the last HTTP process."""
        self.admission.is_draining = True
        if not self.sessions:
            self.ended.set()

    def _make_metrics(self) -> Metrics:
        return SharedMetrics(self._directory)

    @staticmethod
    def _begin_engine() -> None:
        """No loop is beside it that had to come first."""

    def _on_turn(self, turn: Turn) -> None:
        """In the worker's thread, which ends if this fails: events would be lost."""
        self._hand_out(turn)

    def _on_served(self, model: ServedModel) -> None:
        super()._on_served(model)
        if self._loop is not None:  # who connects later is told then
            self._tell_loop(lambda: self._announce(model))

    def _announce(self, model: ServedModel) -> None:
        for session in self.sessions:
            session.announce(model)

    def _on_death(self) -> None:
        self.admission.is_broken = True
        self._tell_loop(self.ended.set)

    def _on_end(self, session: Session) -> None:
        self.sessions.discard(session)
        if self.admission.is_draining and not self.sessions:
            self.ended.set()


def run(
    settings: Settings,
    listener: socket.socket,
    directory: Path,
    lifeline: int,
    on_begun: Callable[[], None],
) -> int:
    """Serve HTTP processes until they are gone after a signal; 1 after a bug, 2 for bad options."""
    try:
        with with_volume(settings) as served:
            runtime = EngineRuntime(served, directory)
            runtime.load()
            on_begun()
            memory.give_back_from_now_on()
            gc.freeze()
            gc.enable()
            return asyncio.run(_serve(runtime, listener, lifeline))
    except ValueError as error:
        sys.stderr.write(f"service: {error}\n")
        return 2


async def _serve(runtime: EngineRuntime, listener: socket.socket, lifeline: int) -> int:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, runtime.begin_drain)
    loop.add_signal_handler(signal.SIGUSR1, runtime.write_profile)
    loop.add_reader(lifeline, runtime.ended.set)
    await runtime.start()
    accepting = runtime.roots.task("accepting", lambda: _accept(runtime, listener))
    await runtime.ended.wait()
    loop.remove_reader(lifeline)
    accepting.cancel()
    for session in tuple(runtime.sessions):
        session.close()
    if runtime.admission.is_broken:
        return 1
    await runtime.stop()
    return 0


async def _accept(runtime: EngineRuntime, listener: socket.socket) -> None:
    listener.settimeout(0.0)
    inside = Inside(runtime)
    while True:
        sock = await _next(listener)
        try:
            runtime.connect(sock, str(next(runtime.numbers)), inside)
        except Exception:  # a bug of ours; the HTTP process ends by it and is begun again
            logger.exception("an HTTP process could not be connected")
            sock.close()


async def _next(listener: socket.socket) -> socket.socket:
    """The next connection; files run out for a while, and not for good."""
    while True:
        try:
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
        except OSError as error:
            logger.error("no HTTP process can be connected now: %s", error)
            await asyncio.sleep(ACCEPT_AGAIN_S)
        else:
            return sock

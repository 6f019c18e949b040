"""Runs the app under uvicorn with our own signals: not ready → drain → exit 0.

uvicorn alone stops listening at the first signal and re-raises it at the end; then a load
balancer would see connections refused before it sees "not ready", and the exit status would be
the signal's.
"""

import asyncio
import contextlib
import functools
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI

from service import signals
from service.front import Front
from service.http.connections.connection import AnsweringApp, Connection, ConnectionLimits
from service.http.connections.open_connections import NUM_LEAVING, NUM_SPARE, Crowd
from service.http.middleware.api_key import HEALTH, METRICS
from service.http.sockets import url
from service.observe import memory
from service.settings.schema import Settings

CLOSE_CONNECTIONS_S = 5
"""How long open connections may take to close after everything has been answered."""

FORCE_AFTER_S = 25.0
"""After a drain, how long connections may take to end, and threads, which may read a volume."""

OTHER_FILES = 256 + NUM_SPARE + NUM_LEAVING
"""Open files beside ``max_connections``: libraries, checkpoints being read, logs, and connections
that are being closed or have a place for health."""

logger = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """A uvicorn server that drains before it stops."""

    def __init__(self, config: uvicorn.Config, runtime: Front) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain at what asks for it (``signals``); the second such signal stops at once."""
        loop = asyncio.get_running_loop()
        numbers = signals.draining()
        with signals.kept():
            for number in numbers:
                loop.add_signal_handler(number, self._on_signal)
            loop.add_signal_handler(signal.SIGUSR1, self._on_profile_wanted)
            try:
                yield
            finally:
                for number in (*numbers, signal.SIGUSR1):
                    loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self._draining is None:
            logger.info("draining: no new requests; running ones may finish")
            self._draining = asyncio.ensure_future(self._drain())
            end_by_force(self._runtime.settings.drain_timeout_s + FORCE_AFTER_S)
        else:
            self._runtime.switchboard.abort_all()
            self.should_exit = True

    def _on_profile_wanted(self) -> None:
        if self._runtime.profile is None:
            logger.info("SIGUSR1: nothing is measured; start with --profile FILE")
        self._runtime.write_profile()

    async def _drain(self) -> None:
        try:
            await self._runtime.drain()
        finally:  # whatever happens to it, a signal ends the service
            self.should_exit = True


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How connections are treated."""
    limits = ConnectionLimits(
        client_timeout_s=settings.client_timeout_s,
        max_body_bytes=settings.max_body_bytes,
        spare_paths=HEALTH | {METRICS},
        on_refused=app.state.runtime.metrics.requests.on_refused,
    )
    made_for_each: Any = functools.partial(Connection, limits, Crowd(settings.max_connections))
    return uvicorn.Config(
        AnsweringApp(app),
        log_config=None,
        access_log=settings.log_level == "debug",  # each request has a line of its own
        timeout_graceful_shutdown=CLOSE_CONNECTIONS_S,
        server_header=False,
        ws="none",
        http=made_for_each,
        lifespan="on",
    )


class LoneServer(DrainingServer):
    """Says where it listens: there is no parent that would."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if sockets and not self.should_exit:
            logger.info("running on %s", ", ".join(map(url, sockets)))


def allow_open_files(count: int) -> int:
    """Raise this process's own limit of open files to so many, as far as the system lets it.

    Returns how many may be open, at most as many as were asked for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return count
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):  # macOS has a limit of its own below an infinite one
        most = soft
    return most


def with_open_files(settings: Settings) -> Settings:
    """The same settings, with as many connections as files may be open.

    More would leave none for checkpoints. Where the limit is very low, connections get half of it.
    """
    most = allow_open_files(settings.max_connections + OTHER_FILES)
    connections = min(settings.max_connections, max(most - OTHER_FILES, most // 2))
    if connections == settings.max_connections:
        return settings
    logger.warning(
        "max_connections is %d instead of %d: this process may open %d files (ulimit -n)",
        *(connections, settings.max_connections, most),
    )
    return settings.model_copy(update={"max_connections": connections})


def end_by_force(after_s: float) -> None:
    """Have the process end by then, with 1: a thread that hangs must not outlive a drain."""

    def end() -> None:
        logger.error("something has not ended %g s after the signal; the process ends", after_s)
        logging.shutdown()
        os._exit(1)

    timer = threading.Timer(after_s, end)
    timer.daemon = True
    timer.start()


def serve(app: FastAPI, settings: Settings, sockets: list[socket.socket]) -> None:
    """Serve on these sockets until a signal; returns once everything has ended."""
    settings = with_open_files(settings)
    memory.give_back_from_now_on()
    LoneServer(server_config(app, settings), app.state.runtime).run(sockets)

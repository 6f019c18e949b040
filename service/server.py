"""Runs the app under uvicorn with our own signals: not ready → drain → exit 0.

uvicorn alone stops listening at the first signal and re-raises it at the end; then a load
balancer would see connections refused before it sees "not ready", and the exit status would be
the signal's.
"""

import asyncio
import contextlib
import functools
import logging
import resource
import signal
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.api.connection import AnsweringApp, Connection, ConnectionLimits
from service.api.crowd import NUM_LEAVING, NUM_SPARE, Crowd
from service.api.guard import HEALTH, METRICS
from service.front import Front
from service.settings import Settings

CLOSE_CONNECTIONS_S = 5
"""How long open connections may take to close after everything has been answered."""

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
        """Drain at SIGTERM and SIGINT; the second one stops at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        if self._runtime.profile is not None:
            loop.add_signal_handler(signal.SIGUSR1, self._runtime.write_profile)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self._draining is None:
            logger.info("draining: no new requests; running ones may finish")
            self._draining = asyncio.ensure_future(self._drain())
        else:
            self._runtime.switchboard.abort_all()
            self.should_exit = True

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
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=settings.log_level == "debug",  # each request has a line of its own
        timeout_graceful_shutdown=CLOSE_CONNECTIONS_S,
        server_header=False,
        ws="none",
        http=made_for_each,
        lifespan="on",
    )


def allow_open_files(count: int) -> None:
    """Raise this process's own limit of open files, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):  # macOS has a limit of its own below an infinite one
        most = soft
    if most < count:
        logger.warning("of max_connections, only about %d can be open", most - OTHER_FILES)


def serve(app: FastAPI, settings: Settings) -> None:
    """Serve until a signal; returns once everything has ended."""
    allow_open_files(settings.max_connections + OTHER_FILES)
    DrainingServer(server_config(app, settings), app.state.runtime).run()

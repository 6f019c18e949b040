"""An HTTP process: an app over the engine's process, on a socket that the parent listens on."""

import asyncio
import gc
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from service.http.app import app_over
from service.http.server import DrainingServer, server_config, with_open_files
from service.observe import memory
from service.processes.forwarded_routes import ForwardRoute
from service.processes.remote import RemoteFront
from service.settings.schema import Settings

LINGER_S = 1.0
"""How long an HTTP process whose engine has ended still tells its clients so."""


class WebServer(DrainingServer):
    """Says when it listens, and ends with the engine or with the parent."""

    def __init__(
        self,
        config: uvicorn.Config,
        front: RemoteFront,
        lifeline: int,
        on_started: Callable[[], None],
    ) -> None:
        super().__init__(config, front)
        self._door = front.worker
        self._lifeline = lifeline
        self._on_started = on_started
        self._leaving: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and tell the parent."""
        await super().startup(sockets)
        if self.should_exit:  # the app could not start
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(self._lifeline, self._on_orphaned)
        self._leaving = self._runtime.roots.task("leaving", self._leave_with_engine)
        self._on_started()

    def _on_orphaned(self) -> None:
        """The parent is gone, and with it whoever could ask for a drain."""
        asyncio.get_running_loop().remove_reader(self._lifeline)
        self.should_exit = True

    async def _leave_with_engine(self) -> None:
        await self._door.is_lost.wait()
        await asyncio.sleep(LINGER_S)
        self.should_exit = True


def run(
    settings: Settings,
    sock: socket.socket,
    path: Path,
    lifeline: int,
    on_started: Callable[[], None],
) -> int:
    """Serve until a signal, or the engine's end, which is 1."""
    front = RemoteFront(settings, path)
    app = app_over(front)
    door = front.worker
    app.router.routes.insert(0, ForwardRoute(door.call))
    settings = with_open_files(settings)
    memory.give_back_from_now_on()
    gc.freeze()
    gc.enable()
    WebServer(server_config(app, settings), front, lifeline, on_started).run([sock])
    return int(door.is_lost.is_set() and not front.admission.is_draining)

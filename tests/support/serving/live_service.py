"""A service inside this process: uvicorn in a thread behind a real socket, no start-up cost."""

import queue
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn

from service.http.app import create_app
from service.http.server import server_config
from service.http.sockets import listen
from service.runtime import Runtime
from service.settings.schema import Settings
from serving.engines import gated_engine, toy_served
from serving.exposition import Exposition
from serving.http_client import http_client
from serving.waiting import wait_until


def toy_settings(volume: Path, **changes: Any) -> Settings:
    """Settings for a toy: float64, so that texts equal the reference; quick polls."""
    return Settings(
        **{
            "volume": volume,
            "port": 0,
            "device": "cpu",
            "dtype": "float64",
            "num_slots": 4,
            "max_step_tokens": 32,
            "poll_interval_s": 0.01,
            **changes,
        }
    )


class LiveService:
    """Serves while entered."""

    def __init__(self, settings: Settings) -> None:
        app = create_app(settings)
        self.runtime: Runtime = app.state.runtime
        self._server = uvicorn.Server(server_config(app, settings))
        self._sockets = listen(settings.host, settings.port)
        self._thread = threading.Thread(
            target=self._server.run, args=(self._sockets,), name="uvicorn"
        )
        self.port: int = self._sockets[0].getsockname()[1]
        self.client = http_client()

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started, "the server starts")
        self.client = http_client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join()

    def metrics(self) -> Exposition:
        """Scrape."""
        return Exposition(self.client.get("/metrics").text)

    def wait_ready(self) -> None:
        """Wait until a model serves."""
        wait_until(lambda: self.client.get("/readyz").is_success, "a model serves")

    def wait_for_looks(self) -> None:
        """Wait until the watcher has looked at the volume, begun after this call and ended."""
        watcher = self.runtime.watcher
        look = watcher.look
        num_looks = 0

        def counting_look() -> None:
            nonlocal num_looks
            look()
            num_looks += 1

        watcher.look = counting_look  # type: ignore[method-assign]
        wait_until(lambda: num_looks >= 2, "the watcher looks")
        watcher.look = look  # type: ignore[method-assign]

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is open, running or waiting."""
        metrics = self.metrics()
        return (
            self.runtime.switchboard.num_open == 0
            and metrics.value("num_requests_running") == 0
            and metrics.value("num_requests_waiting") == 0
        )


class CountingQueue(queue.SimpleQueue[Any]):
    """Knows how many items it was ever given, read or not."""

    def __init__(self) -> None:
        self.num_put = 0

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self.num_put += 1


class GatedService(LiveService):
    """Serves a model that computes only as many steps as the test lets it."""

    def __init__(self, volume: Path, **settings: Any) -> None:
        super().__init__(toy_settings(volume, **settings))
        options = self.runtime.settings
        self.decoder, engine = gated_engine(
            num_slots=options.num_slots, max_step_tokens=options.max_step_tokens
        )
        self._model = toy_served(engine)
        self._commands = CountingQueue()
        self.runtime.worker._commands = self._commands

    def __enter__(self) -> Self:
        super().__enter__()
        self.runtime.worker.flip(self._model)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if hasattr(self, "decoder"):
            self.decoder.open()
        super().__exit__(kind, error, traceback)

    def wait_for_steps(self, count: int) -> None:
        """Wait until step number ``count`` has begun."""
        wait_until(lambda: self.decoder.num_begun >= count, f"step {count} begins")

    def wait_for_commands(self, count: int) -> None:
        """Wait until the worker has been told ``count`` things in all, read or not.

        One to submit each answer of a request, one to abort each.
        """
        wait_until(lambda: self._commands.num_put >= count, f"command {count} is given")

    def forget_model(self) -> None:
        """Let go of the model, so that the service alone holds it."""
        self.decoder.open()
        del self.decoder, self._model

    def pass_time(self, seconds: float) -> None:
        """Let the worker's clock jump ahead."""
        clock = self.runtime.clock
        self.runtime.worker._clock = lambda: clock() + seconds

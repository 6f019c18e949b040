"""The parts of one running service, made from its settings and wired together.

Threads and the event loop meet here: the watcher's thread flips models, the worker's thread
hands its turns to the loop.
"""

import asyncio
import time

import torch

from lm.device import pick_device
from service.api.limits import Admission
from service.api.replies import Switchboard
from service.engine.served import ServedModel
from service.engine.worker import Turn, Worker
from service.errors import NotReady
from service.gate import Gate
from service.loader import Loader, LoaderOptions
from service.metrics import Metrics
from service.settings import Settings
from service.watcher import CheckpointWatcher


class Runtime:
    """Everything between the routes and the volume."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(time.time)
        self.admission = Admission(
            num_slots=settings.num_slots, max_waiting_requests=settings.max_waiting_requests
        )
        self.switchboard = Switchboard(self.metrics, self.admission)
        self.worker = Worker(self._on_turn, self.clock)
        self.loader = Loader(
            LoaderOptions(
                device=pick_device(settings.device),
                dtype=settings.dtype,
                num_slots=settings.num_slots,
                max_step_tokens=settings.max_step_tokens,
                max_model_tokens=settings.max_model_tokens,
                verify_hashes=settings.verify_hashes,
                measure_bits_per_byte=settings.max_bpb_regression is not None,
            )
        )
        self.watcher = CheckpointWatcher(
            settings.volume,
            settings.run,
            load=self.loader.load,
            gate=Gate(
                max_bpb_regression=settings.max_bpb_regression,
                refuse_memorising=settings.refuse_memorising,
                refuse_degenerate=settings.refuse_degenerate,
            ),
            on_served=self._on_served,
            on_refused=self.metrics.checkpoints.on_refused,
            poll_interval_s=settings.poll_interval_s,
        )
        self._loop: asyncio.AbstractEventLoop | None = None

    @staticmethod
    def clock() -> float:
        """The one monotonic clock of deadlines and latencies, in seconds."""
        return time.perf_counter()

    def start(self) -> None:
        """Start the threads; called in the event loop that answers requests."""
        if self.settings.threads is not None:
            torch.set_num_threads(self.settings.threads)
        self._loop = asyncio.get_running_loop()
        self.worker.start()
        self.watcher.start()

    async def stop(self) -> None:
        """Stop the threads; requests that still run are aborted."""
        await asyncio.to_thread(self.watcher.stop)
        await asyncio.to_thread(self.worker.stop)

    async def drain(self) -> None:
        """Accept nothing more and wait for what was accepted; after so long, abort it."""
        self.admission.is_draining = True
        deadline = self.clock() + self.settings.drain_timeout_s
        while self.switchboard.num_open and self.clock() < deadline:
            await asyncio.sleep(0.02)
        self.switchboard.abort_all()

    def model(self) -> ServedModel:
        """The model for new requests; raises ``NotReady`` with the reason if there is none."""
        model = self.worker.current
        if model is None:
            raise NotReady(f"no model is served yet: {self.watcher.why_not_ready()}")
        return model

    def _on_served(self, model: ServedModel) -> None:
        self.worker.flip(model)
        self.metrics.checkpoints.on_served(model)

    def _on_turn(self, turn: Turn) -> None:
        """Hand a turn from the worker's thread to the event loop."""
        assert self._loop is not None, "the worker starts after the loop is known"
        try:
            self._loop.call_soon_threadsafe(self.switchboard.on_turn, turn)
        except RuntimeError:  # the loop is closed: the process is ending and nobody listens
            return

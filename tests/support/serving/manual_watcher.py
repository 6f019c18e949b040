"""A watcher without its thread: a test looks by hand, over a real volume."""

from collections.abc import Callable
from pathlib import Path

import torch

from lm.volume import Step
from service.engine.served_model import ServedModel
from service.engine.worker import Worker
from service.models.catalog import Catalog
from service.models.kernels.backend import BackendOptions
from service.models.library import Library
from service.models.loading.gate import Gate
from service.models.loading.loader import Loader, LoaderOptions
from service.models.rejections import Refusals
from service.models.residency import Residency, ResidencyOptions
from service.models.watcher import CheckpointWatcher, Listeners

OPTIONS = LoaderOptions(
    backend=BackendOptions(
        device=torch.device("cpu"), dtype="float32", num_slots=1, max_step_tokens=8
    ),
    max_model_tokens=None,
    verify_hashes=True,
    measure_bits_per_byte=True,
)


class Watching:
    """A watcher, everything that it stands on, and what it told."""

    def __init__(
        self,
        volume: Path,
        run: str | None = None,
        *,
        load: Callable[[Step], ServedModel] | None = None,
        gate: Gate | None = None,
        max_models: int = 4,
        drain_s: float = 60.0,
    ) -> None:
        self.served: list[str] = []
        self.refused: list[str] = []
        self.loads: list[str] = []
        self.problems: list[str | None] = []
        self.busy: dict[str, int] = {}
        """Open requests by a checkpoint's name."""
        self.available_bytes: int | None = None
        self.now = 0.0
        self._load = load or Loader(OPTIONS).load
        self.catalog = Catalog(volume)
        self.worker = Worker(lambda turn: None, lambda: self.now)
        self.residency = Residency(
            ResidencyOptions(max_models=max_models, drain_s=drain_s),
            self.worker,
            num_open=lambda model: self.busy.get(model.checkpoint.name, 0),
            is_on_volume=self.catalog.holds,
            clock=lambda: self.now,
            available_bytes=lambda: self.available_bytes,
        )
        self.refusals = Refusals(self.refused.append)
        self.library = Library(
            self.load,
            gate=gate or Gate(),
            residency=self.residency,
            refusals=self.refusals,
            on_loaded=lambda model: None,
        )
        self.watcher = CheckpointWatcher(
            self.catalog,
            run,
            library=self.library,
            residency=self.residency,
            listeners=Listeners(
                on_served=lambda model: self.served.append(model.checkpoint.name),
                on_looked=self.problems.append,
            ),
            poll_interval_s=0.01,
        )

    def load(self, step: Step) -> ServedModel:
        self.loads.append(step.name)
        return self._load(step)

    def look(self, times: int = 1) -> list[str]:
        """Look; returns everything served so far."""
        for _ in range(times):
            self.watcher.look()
        return self.served

    @property
    def in_memory(self) -> list[str]:
        """Names of the models held, the current one first."""
        return [model.checkpoint.name for model in self.residency.models]

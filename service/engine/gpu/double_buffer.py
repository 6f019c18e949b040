"""Two sets of weight buffers over one cache: a swap is a copy into the idle set.

All steps are recorded over both sets when the buffers are made. A model that is let go of gives its
set back; a third model has to wait for one.
"""

import threading
import weakref
from collections.abc import Callable, Iterable

import torch

from lm.safetensors_file import Piece
from service.engine.gpu.buffers.cache import GpuCache
from service.engine.gpu.buffers.weight_set import WeightSet
from service.engine.gpu.runner import GpuRunner
from service.engine.scheduling.slots import SlotPool

NUM_SETS = 2


class NoFreeSet(MemoryError):
    """All sets of weight buffers hold models that are in use."""


class DoubleBuffer:
    """Room for two models of one shape."""

    def __init__(self, cache: GpuCache, make_set: Callable[[], WeightSet]) -> None:
        """Record everything; takes seconds."""
        self.cache = cache
        self._slots = SlotPool(cache.num_slots)
        self._lock = threading.RLock()
        """Reentrant: the collector may give a set back in the middle of any allocation."""
        self._idle = [make_set() for _ in range(NUM_SETS)]

    @property
    def is_unused(self) -> bool:
        """Whether no model is in any set."""
        with self._lock:
            return len(self._idle) == NUM_SETS

    def runner(self, pieces: Iterable[Piece]) -> GpuRunner:
        """A runner over weights that are copied into an idle set.

        Raises ``NoFreeSet``, and ``ValueError`` if the weights do not fit the sets' config.
        """
        weight_set = self._take()
        try:
            weight_set.fill(pieces)
            runner = GpuRunner(weight_set, self.cache, self._slots.sibling())
        except BaseException:
            self._give_back(weight_set)
            raise
        weakref.finalize(runner, self._give_back, weight_set)
        return runner

    def _take(self) -> WeightSet:
        """An idle set, once what it last computed is done."""
        with self._lock:
            if not self._idle:
                raise NoFreeSet(
                    f"all {NUM_SETS} sets of weights on the GPU are in use: requests still run on "
                    "the model before, or models are kept that were asked for by name"
                )
            weight_set = self._idle.pop()
        if self.cache.key.is_cuda:
            torch.cuda.synchronize(self.cache.key.device)
        return weight_set

    def _give_back(self, weight_set: WeightSet) -> None:
        with self._lock:
            self._idle.append(weight_set)

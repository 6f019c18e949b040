"""Which models are in memory: the current one, those asked for by name, those being drained.

New requests without a name go to the current one. A model that was named stays until room is
needed: the least recently used idle one goes first, one whose step is no longer on the volume
last, since nothing could bring it back. A replaced model goes with its last request.
"""

import collections
import dataclasses
import logging
import threading
import weakref
from collections.abc import Callable

from service.engine.served_model import Checkpoint, ServedModel
from service.engine.worker import Worker
from service.errors import NoRoom
from service.observe import memory

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidencyOptions:
    """Bounds on what is held."""

    max_models: int
    """Models in memory at once, those being drained counted."""
    drain_s: float
    """How long a replaced model may go on with what it has begun."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Replaced:
    """A model that finishes what it has begun."""

    model: ServedModel
    deadline: float


class Residency:
    """Holds models; asked by the event loop, changed by the thread that loads."""

    def __init__(
        self,
        options: ResidencyOptions,
        worker: Worker,
        *,
        num_open: Callable[[ServedModel], int],
        is_on_volume: Callable[[Checkpoint], bool],
        clock: Callable[[], float],
        available_bytes: Callable[[], int | None] = memory.available_bytes,
    ) -> None:
        self._options = options
        self._worker = worker
        self._num_open = num_open
        self._is_on_volume = is_on_volume
        self._clock = clock
        self._available_bytes = available_bytes
        self._lock = threading.Lock()
        self._named: collections.OrderedDict[str, ServedModel] = collections.OrderedDict()
        """By fingerprint, the least recently used first."""
        self._replaced: list[_Replaced] = []
        self._leaving: list[weakref.ref[object]] = []
        """Weights that were let go of; whoever used them last may not have noticed yet."""

    @property
    def current(self) -> ServedModel | None:
        """The model of requests that name none."""
        return self._worker.current

    @property
    def models(self) -> list[ServedModel]:
        """Every model in memory, the current one first."""
        with self._lock:
            return self._models()

    def find(self, is_wanted: Callable[[Checkpoint], bool]) -> ServedModel | None:
        """A model in memory that is wanted by name; from now on it stays while there is room."""
        with self._lock:
            for model in self._models():
                if is_wanted(model.checkpoint):
                    self._use(model)
                    return model
        return None

    def add(self, model: ServedModel) -> None:
        """Keep a model that was loaded because somebody named it."""
        with self._lock:
            self._use(model)

    def take_over(self, model: ServedModel) -> None:
        """Send all new requests to a model; the one before finishes what it has begun."""
        with self._lock:
            old = self.current
            self._worker.flip(model)
            self._replaced = [other for other in self._replaced if other.model is not model]
            is_named = old is not None and old.checkpoint.fingerprint in self._named
            if old is not None and old is not model and not is_named:
                deadline = self._clock() + self._options.drain_s
                self._replaced.append(_Replaced(model=old, deadline=deadline))

    def make_room(self, needed_bytes: int) -> None:
        """Evict what is idle until one more model fits; raises ``NoRoom`` if that is not enough."""
        self.tidy()
        while (reason := self._why_full(needed_bytes)) is not None:
            if not self.evict_one():
                raise NoRoom(reason)

    def forget(self, is_stale: Callable[[Checkpoint], bool]) -> None:
        """Let go of named models whose name now means other weights."""
        with self._lock:
            for model in list(self._named.values()):
                if is_stale(model.checkpoint):
                    self._let_go(self._named.pop(model.checkpoint.fingerprint))

    def tidy(self) -> None:
        """Let go of replaced models that have drained; end what takes too long."""
        self._end_late()
        self._release_drained()
        gone = [weights for weights in self._leaving if weights() is None]
        if gone:
            self._leaving = [weights for weights in self._leaving if weights not in gone]
            memory.trim()

    def _models(self) -> list[ServedModel]:
        current = [] if self.current is None else [self.current]
        others = [*self._named.values(), *(old.model for old in self._replaced)]
        return [*current, *(model for model in others if model is not self.current)]

    def _use(self, model: ServedModel) -> None:
        self._named[model.checkpoint.fingerprint] = model
        self._named.move_to_end(model.checkpoint.fingerprint)
        self._replaced = [old for old in self._replaced if old.model is not model]

    def _why_full(self, needed_bytes: int) -> str | None:
        count, limit = len(self.models), self._options.max_models
        if count >= limit:
            return f"{count} models are in memory and busy, max_resident_models is {limit}"
        available = self._available_bytes()
        if available is not None and available < needed_bytes:
            return f"a model needs up to {needed_bytes:,} bytes, {available:,} are available"
        return None

    def evict_one(self) -> bool:
        """Let go of the idle named model that is missed least; false if there is none."""
        idle = [
            model
            for model in self.models
            if model is not self.current
            and model.checkpoint.fingerprint in self._named
            and self._num_open(model) == 0
        ]
        by_use = list(self._named)
        idle.sort(key=lambda model: by_use.index(model.checkpoint.fingerprint))
        idle.sort(key=lambda model: not self._is_on_volume(model.checkpoint))
        if not idle:
            return False
        with self._lock:
            self._let_go(self._named.pop(idle[0].checkpoint.fingerprint))
        return True

    def _end_late(self) -> None:
        with self._lock:
            for old in self._replaced:
                if self._clock() >= old.deadline:
                    name = old.model.checkpoint.name
                    logger.warning("%s has not drained in time: its requests are ended", name)
                    self._worker.end_all(old.model, f"{name} was replaced too long ago")

    def _release_drained(self) -> None:
        with self._lock:
            drained = [old for old in self._replaced if self._num_open(old.model) == 0]
            self._replaced = [old for old in self._replaced if old not in drained]
            for old in drained:
                self._let_go(old.model)

    def _let_go(self, model: ServedModel) -> None:
        """Watch for the weights' end; whoever uses them still keeps them until then."""
        self._leaving.append(weakref.ref(model.engine))

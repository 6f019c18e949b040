"""Gets models by step: from memory, or from the volume through the checks, beside what runs.

Knows what was refused. Used by one thread, the watcher's; it decides nothing about who serves.
"""

import logging
from collections.abc import Callable, Sequence

import torch

from lm.volume import Step, StepVanished, VolumeError
from service.engine.served_model import ServedModel
from service.errors import NoRoom, UnknownModel
from service.excerpts import excerpt
from service.models.catalog import identity
from service.models.loading.gate import POLICY_REASONS, Gate
from service.models.loading.loader import weights_bytes
from service.models.refused import CheckpointRefused
from service.models.rejections import Refusals
from service.models.residency import Residency

logger = logging.getLogger(__name__)


class Library:
    """Loads what is wanted and not in memory, unless it was refused."""

    def __init__(
        self,
        load: Callable[[Step], ServedModel],
        *,
        gate: Gate,
        residency: Residency,
        refusals: Refusals,
        on_loaded: Callable[[ServedModel], object],
    ) -> None:
        self._load = load
        self._gate = gate
        self._residency = residency
        self.refusals = refusals
        self._on_loaded = on_loaded

    def successor(self, step: Step) -> ServedModel | None:
        """A model that may take over by itself; ``None`` if it is refused, or gone."""
        try:
            return self._get(step, is_named=False)
        except NoRoom as error:
            self.refusals.add(_key(step), error.code, str(error), identity(step))
            return None

    def by_name(self, name: str, steps: Sequence[Step]) -> ServedModel:
        """The first of these that can be served; it stays in memory while there is room.

        Who asks for a step by name gets what policy alone refuses. Raises ``UnknownModel`` with
        the first one's reason, or ``NoRoom``.
        """
        for step in steps:
            model = self._get(step, is_named=True)
            if model is not None:
                self._residency.add(model)
                return model
        refusal = self.refusals.table.get(_key(steps[0]))
        reason = "it was just pruned" if refusal is None else f"it was refused: {refusal.message}"
        raise UnknownModel(f"model {excerpt(name)!r} cannot be served: {reason}", param="model")

    def _get(self, step: Step, *, is_named: bool) -> ServedModel | None:
        marks = identity(step)
        refusal = self.refusals.stands(_key(step), marks)
        if refusal is not None and not (is_named and refusal.reason in POLICY_REASONS):
            return None
        try:
            model = self._checked(step, is_named=is_named)
        except StepVanished as error:
            message = f"it was pruned while it was loaded: {error}"
            self.refusals.add(_key(step), error.reason, message, ("vanished",))
            return None
        except NoRoom:
            raise
        except (VolumeError, CheckpointRefused) as error:
            self.refusals.add(_key(step), error.reason, str(error), marks)
            return None
        except BaseException as error:  # a Rust panic is no Exception
            logger.exception("loading %s failed", step.name)
            message = f"{type(error).__name__}; the service's log says more"
            self.refusals.add(_key(step), "load_failed", message, marks)
            return None
        if refusal is None:
            self.refusals.forget(_key(step))
        return model

    def _checked(self, step: Step, *, is_named: bool) -> ServedModel:
        """From memory or the volume; judged by the gate if it is to take over by itself."""
        if is_named:
            return self._in_memory(step) or self._load_beside(step)
        self._gate.check_claims(step)
        model = self._in_memory(step) or self._load_beside(step)
        current = self._residency.current
        if model is not current:
            self._gate.check_behaviour(model, current)
        return model

    def _in_memory(self, step: Step) -> ServedModel | None:
        fingerprint = step.manifest.fingerprint
        models = self._residency.models
        return next((m for m in models if m.checkpoint.fingerprint == fingerprint), None)

    def _load_beside(self, step: Step) -> ServedModel:
        self._residency.make_room(2 * weights_bytes(step))  # 16 bits may be served as 32
        while True:
            try:
                model = self._load(step)
            except (MemoryError, torch.OutOfMemoryError) as error:
                # What loading needs beside what was counted before: a GPU's set of weights, say.
                if not self._residency.evict_one():
                    raise NoRoom(f"no memory for {step.name}: {error}") from error
            else:
                self._on_loaded(model)
                return model


def _key(step: Step) -> tuple[str, int]:
    return step.manifest.run, step.number

"""The thread that loads: puts the newest good checkpoint into service, and what clients name.

Polls, since that works on every filesystem; reads alone. Everything is loaded beside the models
that run, one at a time, by a thread that gives way to them (see ``background``).
"""

import concurrent.futures
import dataclasses
import itertools
import logging
from collections.abc import Callable, Sequence

from lm.machine.threads import Roots
from lm.volume import Step
from service.engine.served_model import Checkpoint, ServedModel
from service.errors import Draining, NotReady
from service.models.catalog import Catalog, contents
from service.models.library import Library
from service.models.load_queue import Orders
from service.models.residency import Residency
from service.models.run_survey import NEWEST, Survey
from service.observe.thread_priority import give_way

STOP_S = 10.0
"""How long a stop waits: loads take seconds, and whoever sent a SIGTERM waits for a minute."""
UNFINISHED_LOOKS = 60
"""Looks after which a step without a manifest, in which nothing moves, is given up."""
NAMED_FOR_S = 0.1
"""Time after which no further model is loaded by name before the volume is looked at: a newer
checkpoint waits for one such load at most."""

WATCHER = "watcher"
"""Name of the thread, in logs and metrics."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listeners:
    """Who is told; all are called by the watcher's thread."""

    on_served: Callable[[ServedModel], object]
    """New requests go to this model."""
    on_looked: Callable[[str | None], object]
    """After each look, with the problem if the volume could not be read."""


class CheckpointWatcher:
    """Follows one run of a volume, and loads steps of any run by name."""

    def __init__(
        self,
        catalog: Catalog,
        run: str | None,
        *,
        library: Library,
        residency: Residency,
        listeners: Listeners,
        poll_interval_s: float,
        load_threads: int = 1,
        roots: Roots | None = None,
    ) -> None:
        self._catalog = catalog
        self.run = run
        """The run that is followed; chosen once if it was not given."""
        self._library = library
        self.refusals = library.refusals
        self._residency = residency
        self._tell = listeners
        self._poll_interval_s = poll_interval_s
        self._load_threads = load_threads
        self._orders = Orders()
        self._is_stopping = False
        self._roots = roots or Roots()
        self._thread = self._roots.thread(WATCHER, self._watch, again=True, on_gone=self._on_gone)
        self._followed: Checkpoint | None = None
        """What was last put into service because it was the newest."""
        self._seen: frozenset[str] = frozenset()
        """Fingerprints on the volume when the followed step was last seen there."""
        self._unfinished: dict[int, tuple[tuple[object, ...], int]] = {}
        self.is_holding = False
        """Whether a pinned step serves until it is released, whatever is published."""
        self.problem: str | None = None
        """Why the volume could not be looked at, if so."""

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    @property
    def is_started(self) -> bool:
        """Whether ``start`` was called."""
        return self._thread.is_started

    def stop(self) -> None:
        """Stop looking; waits for a load that is under way, but not for a volume that hangs."""
        was_stopping, self._is_stopping = self._is_stopping, True
        self._thread.leave()
        self._orders.wake()
        if not was_stopping:
            self._thread.join(STOP_S)

    @property
    def is_running(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_running

    def load(
        self, name: str, steps: Sequence[Step], party: str | None = None
    ) -> "concurrent.futures.Future[ServedModel]":
        """Load the first of these that is good, if it is not in memory, and keep it there.

        Raises ``TooManyRequests`` or ``QueueFull`` where too many wait, see ``Orders``. Cancel the
        future when nobody waits for it any more.
        """
        return self._orders.give(lambda: self._library.by_name(name, steps), party)

    def hold(self, name: str, steps: Sequence[Step]) -> "concurrent.futures.Future[ServedModel]":
        """Serve the first of these that is good until ``release``."""
        return self._orders.give(lambda: self._hold(name, steps))

    def release(self) -> "concurrent.futures.Future[None]":
        """Follow the newest checkpoint again, beginning now."""
        return self._orders.give(self._release)

    def why_not_ready(self) -> str:
        """What a person should know while nothing is served."""
        if self.problem is not None:
            return self.problem
        if self.run is None:
            return f"no run with a complete checkpoint in {self._catalog.volume.name} yet"
        refused = {step: no for (run, step), no in self.refusals.table.items() if run == self.run}
        if refused:
            step = max(refused)
            return f"step {step} of run {self.run} was refused: {refused[step].message}"
        return f"no complete checkpoint of run {self.run} yet"

    def look(self) -> None:
        """Put the newest step that is good into service, if it is not there already."""
        self._residency.tidy()
        self.run = self.run or self._catalog.newest_run()
        is_serving = self._residency.current is not None
        self._report(self._catalog.problem(self.run) if is_serving else None)
        if self.run is None or self.problem is not None:
            return
        survey = self._catalog.survey(self.run)
        self.refusals.on_look(self.run, survey.numbers)
        self._refuse_broken(self.run, survey)
        self._residency.forget(lambda checkpoint: _is_another(checkpoint, survey))
        if self.is_holding:
            return
        for step in self._newer(survey):
            model = self._library.successor(step)
            if model is not None:
                self._followed = model.checkpoint
                self._seen = survey.fingerprints
                self._serve(model)
                return

    def _watch(self) -> None:
        gives_way = False
        while not self._is_stopping:
            if not gives_way and self._residency.current is not None:
                give_way(self._load_threads)  # the first load has nobody to give way to
                gives_way = True
            with self._roots.guard(WATCHER):
                self._orders.carry_out(NAMED_FOR_S)
            with self._roots.guard(WATCHER):
                try:
                    self.look()
                except OSError as error:
                    self._report(f"cannot read the volume: {error}")
            self._orders.wait(self._poll_interval_s)
        self._orders.refuse(Draining("the service is shutting down"))

    def _on_gone(self) -> None:
        """Nobody loads any more: whoever waits for it is told."""
        self._orders.refuse(NotReady("the thread that loads has ended by a bug"))

    def _report(self, problem: str | None) -> None:
        """Say once that the volume cannot be read, and once that it can again."""
        if problem != self.problem and self._residency.current is not None:
            logger.warning(problem or "the volume can be read again")
        self.problem = problem
        self._tell.on_looked(problem)

    def _refuse_broken(self, run: str, survey: Survey) -> None:
        """Remember why steps are none, those that would be newer than what is served."""
        last = -1 if self._followed is None else self._followed.step
        for number, error in survey.broken.items():
            if number > last:
                self.refusals.add((run, number), error.reason, str(error), (str(error),))
        before, self._unfinished = self._unfinished, {}
        for number, path in list(survey.unfinished.items())[-NEWEST:]:
            inside = contents(path)
            known, looks = before.get(number, (None, 0))
            looks = looks + 1 if known == inside else 0
            self._unfinished[number] = (inside, looks)
            if looks >= UNFINISHED_LOOKS and number > last:
                message = f"{path}: no manifest, and nothing moves in it"
                self.refusals.add((run, number), "incomplete", message, inside)

    def _newer(self, survey: Survey) -> list[Step]:
        """Steps that should take over from the followed one, the best first.

        Numbers decide, not clocks, which may jump. Only when the followed step is gone from the
        volume can a lower number be newer, if it was not there before: the run was begun again.
        """
        followed, newest_first = self._followed, reversed(survey.steps)
        if followed is None:
            self._seen = survey.fingerprints
            return list(newest_first)
        if followed.fingerprint in survey.fingerprints:
            self._seen = survey.fingerprints
            return list(itertools.takewhile(lambda step: step.number > followed.step, newest_first))
        return [
            step
            for step in newest_first
            if step.number > followed.step or step.manifest.fingerprint not in self._seen
        ]

    def _hold(self, name: str, steps: Sequence[Step]) -> ServedModel:
        model = self._library.by_name(name, steps)
        self.is_holding = True
        self._serve(model)
        return model

    def _release(self) -> None:
        self.is_holding = False
        self._followed = None
        self.look()

    def _serve(self, model: ServedModel) -> None:
        if model is self._residency.current:
            return
        self._residency.take_over(model)
        self._tell.on_served(model)
        logger.info(
            "serving %s (%s, %s, on %s, loaded in %.2f s)",
            model.checkpoint.name,
            model.dtype,
            model.backend,
            model.device,
            model.load_s,
        )


def _is_another(checkpoint: Checkpoint, survey: Survey) -> bool:
    """Whether a run was begun again and the checkpoint's step is now another one."""
    step = survey.by_number.get(checkpoint.step)
    return (
        step is not None
        and step.manifest.run == checkpoint.run
        and step.manifest.fingerprint != checkpoint.fingerprint
    )

"""Looks at the volume for a newer checkpoint and puts it into service, beside the running one.

Polls, since that works on every filesystem; reads alone. A refused step is remembered by the
fingerprint of its manifest and its files' times, and not tried again until one of them changes.
"""

import dataclasses
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from lm.volume import MANIFEST_FILE, Step, StepVanished, VolumeError, list_runs, newest_step
from lm.volume.manifest import step_number
from lm.volume.read import read_step, step_paths
from service.engine.served import Checkpoint, ServedModel
from service.gate import CheckpointRefused, Gate

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why a step is not served."""

    reason: str
    message: str
    identity: tuple[object, ...]
    """What must change before the step is tried, and counted, again."""


class CheckpointWatcher:
    """Thread that loads what is newer and good, and remembers what was refused."""

    def __init__(
        self,
        volume: Path,
        run: str | None,
        *,
        load: Callable[[Step], ServedModel],
        gate: Gate,
        on_served: Callable[[ServedModel], None],
        on_refused: Callable[[str], None],
        poll_interval_s: float,
    ) -> None:
        self._volume = volume
        self.run = run
        """The run that is followed; chosen once if it was not given."""
        self._load = load
        self._gate = gate
        self._model: ServedModel | None = None
        self._on_served = on_served
        self._on_refused = on_refused
        self._poll_interval_s = poll_interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self.refusals: dict[int, Refusal] = {}
        self.served: Checkpoint | None = None

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; waits for a load that is under way."""
        self._stop.set()
        self._thread.join()

    def steps(self) -> list[Step]:
        """Complete steps of the followed run, ascending."""
        return self._survey()[0]

    def why_not_ready(self) -> str:
        """What a person should know while nothing is served."""
        if self.run is None:
            return f"no run with a complete checkpoint in {self._volume.name or 'the volume'} yet"
        if self.refusals:
            step, refusal = max(self.refusals.items())
            return f"step {step} of run {self.run} was refused: {refusal.message}"
        return f"no complete checkpoint of run {self.run} yet"

    def look(self) -> None:
        """Put the newest step that is good into service, if it is not there already."""
        if self.run is None:
            self.run = newest_run(self._volume)
        steps, unreadable = self._survey()
        self._forget_absent({step.number for step in steps} | unreadable.keys())
        for number, error in unreadable.items():
            if self.served is None or number > self.served.step:
                self._refuse(number, error.reason, str(error), (str(error),))
        for step in self._newer(steps):
            if not self._is_refused(step) and self._try(step):
                return

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except OSError as error:
                logger.warning("cannot read the volume: %s", error)
            except Exception:
                logger.exception("looking at the volume failed; trying again")
            self._stop.wait(self._poll_interval_s)

    def _survey(self) -> tuple[list[Step], dict[int, VolumeError]]:
        """Complete steps, ascending, and why others with a manifest are none.

        A step without a manifest is still being written, on a store without rename.
        """
        steps, unreadable = [], {}
        for path in [] if self.run is None else step_paths(self._volume / self.run):
            try:
                steps.append(read_step(path))
            except VolumeError as error:
                if (path / MANIFEST_FILE).exists():
                    unreadable[step_number(path.name) or 0] = error
        return steps, unreadable

    def _forget_absent(self, present: set[int]) -> None:
        """Drop refusals of steps that are gone; all gone at once is an unmounted volume."""
        if present:
            self.refusals = {n: refusal for n, refusal in self.refusals.items() if n in present}

    def _newer(self, steps: list[Step]) -> list[Step]:
        """Steps that should take over from the served one, the best first.

        Numbers decide, not clocks, which may jump; only when the served step is gone from the
        volume can a lower number be newer: the run was begun again.
        """
        served = self.served
        if served is None:
            return steps[::-1]
        is_gone = all(step.manifest.fingerprint != served.fingerprint for step in steps)
        return [
            step
            for step in reversed(steps)
            if step.number > served.step
            or (is_gone and step.manifest.created_timestamp > served.created_at)
        ]

    def _is_refused(self, step: Step) -> bool:
        refusal = self.refusals.get(step.number)
        return refusal is not None and refusal.identity == _identity(step)

    def _try(self, step: Step) -> bool:
        """Load and serve a step; returns whether it took over."""
        identity = _identity(step)
        try:
            self._gate.check_claims(step)
            model = self._load(step)
            self._gate.check_behaviour(model, self._model)
        except StepVanished:
            logger.info("%s was pruned while it was loaded", step.name)
            return False
        except (VolumeError, CheckpointRefused) as error:
            self._refuse(step.number, error.reason, str(error), identity)
            return False
        except Exception as error:
            logger.exception("loading %s failed", step.name)
            message = f"{type(error).__name__}: {error}"
            self._refuse(step.number, "load_failed", message, identity)
            return False
        self.refusals = {n: refusal for n, refusal in self.refusals.items() if n != step.number}
        self.served, self._model = model.checkpoint, model
        self._on_served(model)
        logger.info(
            "serving %s (%s on %s, loaded in %.2f s)",
            step.name,
            model.dtype,
            model.device,
            model.load_s,
        )
        return True

    def _refuse(self, number: int, reason: str, message: str, identity: tuple[object, ...]) -> None:
        """Remember why a step is not served; said and counted once.

        The table is replaced, never changed: other threads iterate over it.
        """
        known = self.refusals.get(number)
        if known is not None and known.identity == identity:
            return
        self.refusals = {**self.refusals, number: Refusal(reason, message, identity)}
        self._on_refused(reason)
        logger.warning("refused step %d of run %s (%s): %s", number, self.run, reason, message)


def newest_run(volume: Path) -> str | None:
    """The run whose newest step was written last."""
    newest = [step for run in list_runs(volume) if (step := newest_step(volume / run)) is not None]
    if not newest:
        return None
    return max(newest, key=lambda step: step.manifest.created_timestamp).manifest.run


def _identity(step: Step) -> tuple[object, ...]:
    """Fingerprint, and size and time of every file: what "changed" means."""
    times = []
    for name in sorted(step.manifest.files):
        try:
            status = (step.path / name).stat()
        except OSError:
            continue
        times.append((name, status.st_size, status.st_mtime_ns))
    return (step.manifest.fingerprint, *times)

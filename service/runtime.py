"""The parts of one running service, made from its settings and wired together.

Threads and the event loop meet here: the watcher's thread loads and flips models, the worker's
thread hands its turns to the loop.
"""

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence

import torch

from lm.machine.cores import usable_cores
from lm.machine.threads import Roots
from lm.model.device import pick_device
from lm.volume import OpenFile, Step, open_plain
from service.engine.phase_timer import Profile
from service.engine.served_model import ModelCard, ServedModel
from service.engine.structure.constraint import Prepared
from service.engine.structure.grammars import verdict_on
from service.engine.worker import Turn, Worker
from service.errors import DeadlineExceeded, InvalidRequest, NotReady
from service.excerpts import MAX_REASON, excerpt
from service.front import Front
from service.models import naming
from service.models.catalog import Catalog
from service.models.kernels.backend import BackendOptions
from service.models.library import Library
from service.models.loading.gate import Gate
from service.models.loading.loader import Loader, LoaderOptions
from service.models.rejections import Refusals
from service.models.residency import Residency, ResidencyOptions
from service.models.run_history import Histories, Swaps
from service.models.volume_threads import VolumeReads
from service.models.watcher import CheckpointWatcher, Listeners
from service.observe import traces
from service.observe.loop_lag import beat
from service.observe.metrics import Metrics
from service.observe.thread_priority import let_loop_first
from service.requests.limits import Admission, Limits
from service.requests.tracker import Reply, Switchboard
from service.settings.schema import Settings

SHORT_GRAMMAR_CHARACTERS = 1 << 12
"""What a structure may have to be read in some milliseconds."""
GRAMMAR_TIMEOUT_S = 30.0
"""Its turn included; what ``bounds`` lets in takes up to 1.5 s of a shared core."""

logger = logging.getLogger(__name__)


class Runtime(Front):
    """Everything between the routes and the volume."""

    def __init__(self, settings: Settings, open_file: OpenFile = open_plain) -> None:
        self.settings = settings
        self.swaps = Swaps(time.time)
        self.histories = Histories()
        self.metrics: Metrics = self._make_metrics()
        self.roots = Roots(self.metrics.on_thread_failure)
        self.admission = Admission(
            Limits(
                num_slots=settings.slots,
                max_waiting_requests=settings.max_waiting_requests,
                max_waiting_tokens=settings.max_waiting_tokens,
                max_requests_per_client=settings.max_requests_per_key,
            )
        )
        endpoint = settings.otlp_endpoint
        self.traces = None if endpoint is None else traces.connect(endpoint, self.clock)
        self.switchboard = Switchboard(self.metrics, self.admission, self.traces)
        self.profile = None if settings.profile is None else Profile(self.clock)
        self._hand_out = self._watched(self.switchboard.on_turn)
        self.worker: Worker = Worker(
            self._on_turn,
            self.clock,
            self._begin_engine,
            self._on_death,
            self.profile,
            self.roots,
        )
        self.catalog = Catalog(settings.volume, open_file)
        self.reads = VolumeReads(settings.volume_timeout_s)
        self.residency = Residency(
            ResidencyOptions(
                max_models=settings.max_resident_models, drain_s=settings.swap_drain_s
            ),
            self.worker,
            num_open=self.num_open_on,
            is_on_volume=self.catalog.holds,
            clock=self.clock,
        )
        self.watcher = CheckpointWatcher(
            self.catalog,
            settings.run,
            library=self._make_library(open_file),
            residency=self.residency,
            listeners=Listeners(on_served=self._on_served, on_looked=self._on_looked),
            poll_interval_s=settings.poll_interval_s,
            load_threads=settings.load_threads,
            roots=self.roots,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heartbeat: asyncio.Task[None] | None = None

    def _make_library(self, open_file: OpenFile) -> Library:
        """What gets models by step, for ``watcher``."""
        settings = self.settings
        return Library(
            Loader(loader_options(settings), open_file, self.profile).load,
            gate=Gate(
                max_bpb_regression=settings.max_bpb_regression,
                refuse_memorising=settings.refuse_memorising,
                refuse_degenerate=settings.refuse_degenerate,
            ),
            residency=self.residency,
            refusals=Refusals(self.metrics.checkpoints.on_refused),
            on_loaded=self.metrics.checkpoints.on_loaded,
        )

    def load(self) -> None:
        """Start the thread that loads, before there is anybody to answer; ``start`` does it, too.

        Native code does most of its work, so that importing the web framework costs no time.
        """
        threads = self.settings.threads or usable_cores()
        if self.settings.threads is not None or threads < torch.get_num_threads():
            torch.set_num_threads(threads)  # PyTorch does not know a control group's quota
        sys.setswitchinterval(self.settings.switch_interval_s)
        self.watcher.start()

    async def start(self) -> None:
        """Start the other threads; called in the event loop that answers requests."""
        if not self.watcher.is_started:
            self.load()
        self._loop = asyncio.get_running_loop()
        self._heartbeat = self.roots.task(
            "heartbeat", lambda: beat(self.metrics.loop_lag.observe, self.clock)
        )
        self.worker.start()

    def num_open_on(self, model: ModelCard) -> int:
        """Requests that a model answers; any thread may ask."""
        return self.switchboard.num_open_on(model)

    async def stop(self) -> None:
        """Stop the threads; requests that still run are aborted."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        self.reads.stop()
        await asyncio.to_thread(self.watcher.stop)
        await asyncio.to_thread(self.worker.stop)
        self.write_profile()
        if self.traces is not None:
            await asyncio.to_thread(self.traces.close)

    def write_profile(self) -> None:
        """Write where steps' time has gone, if that is measured; the file appears whole."""
        path = self.settings.profile
        if self.profile is None or path is None:
            return
        beside = path.with_name(f".{path.name}.part")
        try:
            beside.write_text(json.dumps(self.profile.report(), indent=2) + "\n", "utf-8")
            beside.replace(path)
        except OSError as error:
            logger.warning("cannot write the profile: %s", error)

    def model(self) -> ServedModel:
        """The model for new requests; raises ``NotReady`` with the reason if there is none."""
        model = self.worker.current
        if model is None:
            raise NotReady(f"no model is served yet: {self.watcher.why_not_ready()}")
        return model

    async def model_named(
        self, name: str | None, deadline: float, party: str | None = None
    ) -> ServedModel:
        """The model that a request names, loaded if it has to be; ``None`` is the current one.

        See ``Front``.
        """
        current = self.worker.current
        run = self.watcher.run if current is None else current.checkpoint.run
        if name is None or name in (naming.LATEST, run, f"{run}@{naming.LATEST}"):
            return self.model()
        resident = self.residency.find(lambda checkpoint: checkpoint.name == name)
        if resident is not None:
            return resident
        if name in naming.PLACEHOLDERS and name not in await self.reads.read(self.catalog.runs):
            return self.model()
        steps = await self.steps_named(name)
        try:
            async with asyncio.timeout(deadline - self.clock()):
                return await asyncio.wrap_future(self.watcher.load(name, steps, party))
        except TimeoutError as error:
            raise DeadlineExceeded(f"loading {name} takes longer than a request may") from error

    async def check_grammar(self, model: ModelCard, grammar: str, owner: str) -> Prepared:
        """Raise ``InvalidRequest`` for what makes no sense, or takes too long; in a lane."""
        assert isinstance(model, ServedModel), "here is an engine"
        lane = self.short_lane if len(grammar) <= SHORT_GRAMMAR_CHARACTERS else self.long_lane
        try:
            async with asyncio.timeout(GRAMMAR_TIMEOUT_S):
                return await lane.do(owner, lambda: model.engine.grammars.check(grammar))
        except TimeoutError as error:
            raise InvalidRequest(
                f"the structure asked for was not read within {GRAMMAR_TIMEOUT_S:g} s"
            ) from error
        except ValueError as error:
            reason = excerpt(error, MAX_REASON)
            verdict = verdict_on(error)
            raise InvalidRequest(f"the structure asked for {verdict}: {reason}") from error

    async def accepted(self, replies: Sequence[Reply]) -> None:
        """What could be opened, is accepted."""

    async def steps_named(self, name: str) -> list[Step]:
        """Steps of the volume that a name can mean; see ``naming.candidates``."""
        return await self.reads.read(
            lambda: naming.candidates(self.catalog, name, self.watcher.run)
        )

    def _watched(self, hand_out: Callable[[Turn], None]) -> Callable[[Turn], None]:
        return hand_out if self.profile is None else self.profile.watched(hand_out)

    def _make_metrics(self) -> Metrics:
        return Metrics(time.time)

    @staticmethod
    def _begin_engine() -> None:
        """In the engine's thread, before its first step."""
        let_loop_first()

    def _on_served(self, model: ServedModel) -> None:
        self.metrics.checkpoints.on_served(model)
        self.swaps.on_served(model)

    def _on_looked(self, problem: str | None) -> None:
        self.metrics.checkpoints.on_looked(
            num_models=len(self.residency.models), is_readable=problem is None
        )

    def _on_turn(self, turn: Turn) -> None:
        """Hand a turn from the worker's thread to the event loop."""
        self._tell_loop(lambda: self._deliver(turn))

    def _deliver(self, turn: Turn) -> None:
        """Hand a turn out, in the event loop; what got lost on the way is nobody's to know."""
        try:
            self._hand_out(turn)
        except BaseException as error:  # noqa: BLE001  the loop would log it, and streams hang
            self.roots.failed("events", error)
            self._on_death()

    def _on_death(self) -> None:
        """Let nobody wait for an engine that has ended, and whoever watches the service know."""
        self.admission.is_broken = True
        self._tell_loop(self._fail_all)

    def _fail_all(self) -> None:
        with self.roots.guard("events"):
            self.switchboard.fail_all(self.clock())

    def _tell_loop(self, what: Callable[[], None]) -> None:
        """Have something done in the event loop; from the worker's thread."""
        assert self._loop is not None, "the worker starts after the loop is known"
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:  # the loop is closed: the process is ending and nobody listens
            return


def loader_options(settings: Settings) -> LoaderOptions:
    """How these settings have models put into memory."""
    device = pick_device(settings.device)
    if device.type == "cpu" and os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        logger.info("CUDA_VISIBLE_DEVICES is empty: a CPU serves")
    usual_step, usual_speculation = (256, True) if device.type == "cpu" else (2048, False)
    return LoaderOptions(
        backend=BackendOptions(
            device=device,
            dtype=settings.dtype,
            backend=settings.backend,
            threads=settings.threads,
            num_slots=settings.slots,
            max_step_tokens=settings.max_step_tokens or max(usual_step, 2 * settings.slots),
        ),
        max_model_tokens=settings.max_model_tokens,
        chunk_s=settings.prompt_chunk_ms / 1000,
        reuse_prefixes=settings.reuse_prefixes,
        speculation=usual_speculation if settings.speculation is None else settings.speculation,
        verify_hashes=settings.verify_hashes,
        measure_bits_per_byte=settings.max_bpb_regression is not None,
        look_for_loops=settings.refuse_degenerate,
    )

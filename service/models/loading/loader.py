"""From a step of the volume to a model that can be served, beside the one that is.

Everything that can be wrong with a step is found here, before a request could see it.
"""

import dataclasses
import hashlib
import time

from lm.model.config import ModelConfig
from lm.side_files import SideFiles
from lm.text.tokenizer import Tokenizer
from lm.trial import Refused
from lm.volume import (
    OpenFile,
    Step,
    StepDamaged,
    VolumeError,
    load_model_config,
    load_side_files,
    load_tokenizer,
    open_plain,
)
from lm.volume.content import WEIGHTS_FILE
from lm.volume.manifest import TRAINING_STATE_PREFIX
from lm.volume.weights import step_weights
from service.engine.engine import Engine
from service.engine.gpu.placing import FusedFault
from service.engine.gpu.runner import GpuRunner
from service.engine.gpu.verification import why_wrong
from service.engine.native.runner import NativeRunner
from service.engine.overlapped import OverlappedEngine
from service.engine.phase_timer import Laps
from service.engine.pytorch.runner import StepRunner
from service.engine.served_model import ServedModel
from service.models.catalog import checkpoint_of
from service.models.kernels.backend import Backend, BackendOptions, Choice
from service.models.loading.gate import check_logits, check_sampling, check_tokenizer, check_weights
from service.models.loading.quality_probe import bits_per_byte, greedy_continuation, is_degenerate
from service.models.refused import CheckpointRefused
from service.observe import memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """How models are put into memory."""

    backend: BackendOptions
    max_model_tokens: int | None
    chunk_s: float | None = None
    """Bound on what prompts add to a step that streams wait for."""
    reuse_prefixes: bool = True
    speculation: bool = True
    verify_hashes: bool
    measure_bits_per_byte: bool = False
    """On the probe text; a second or so of one core for 135M parameters."""
    look_for_loops: bool = False
    """In a greedy continuation of the probe text; some dozen steps."""


class Loader:
    """Loads, checks and warms models.

    Raises ``ValueError`` at construction if the options ask for kernels that there are not.
    """

    def __init__(
        self, options: LoaderOptions, open_file: OpenFile = open_plain, laps: Laps | None = None
    ) -> None:
        self._options = options
        self._open_file = open_file
        self._laps = laps
        self._backend = Backend(options.backend)
        self._tokenizers: dict[tuple[str, ...], Tokenizer] = {}
        """The last one, by the hashes of the bytes that it was made of."""

    def load(self, step: Step) -> ServedModel:
        """Load a step; raises ``VolumeError`` or ``CheckpointRefused`` with the reason."""
        started = time.perf_counter()
        options = self._options
        files = load_side_files(step, check_hash=options.verify_hashes, open_file=self._open_file)
        config = load_model_config(step, files)
        tokenizer = self._tokenizer(step, files)
        choice = self._backend.choose(config)
        check_tokenizer(config, tokenizer, step.manifest.details.tokenizer_fingerprint)
        check_sampling(tokenizer)
        _ = tokenizer.token_bytes  # half a second for whoever needs it first, of all who are served
        max_tokens = min(
            options.max_model_tokens or config.max_position_embeddings,
            config.max_position_embeddings,
        )
        runner = self._fused_runner(step, config, choice, max_tokens)
        if runner is None:
            choice = self._backend.choose(config)
            runner = self._runner(step, config, choice, max_tokens)
        memory.trim()
        if isinstance(runner, NativeRunner):  # its probes leave the threads to who serves
            runner.keep_aside()
        check_logits(runner, tokenizer)
        engine = self._engine(runner, tokenizer)
        engine.warm_up()
        model = ServedModel(
            checkpoint=checkpoint_of(step),
            tokenizer=tokenizer,
            engine=engine,
            max_model_tokens=max_tokens,
            dtype=choice.precision,
            backend=choice.name,
            not_fused=choice.not_fused,
            num_slots=runner.cache.num_slots,
            device=str(options.backend.device),
            bits_per_byte=bits_per_byte(runner, tokenizer)
            if options.measure_bits_per_byte
            else None,
            is_degenerate=options.look_for_loops
            and is_degenerate(greedy_continuation(engine.alone(), tokenizer, max_tokens)),
            load_s=time.perf_counter() - started,
        )
        if isinstance(runner, NativeRunner):
            runner.serve()
        return model

    def _fused_runner(
        self, step: Step, config: ModelConfig, choice: Choice, max_tokens: int
    ) -> StepRunner | GpuRunner | None:
        """What was chosen; ``None``, from then on, if fused kernels fail or compute wrongly."""
        try:
            runner = self._runner(step, config, choice, max_tokens)
        except FusedFault as error:
            self._backend.refuse_fused(str(error))
            return None
        if isinstance(runner, GpuRunner) and (reason := why_wrong(runner)) is not None:
            self._backend.refuse_fused(reason)
            return None
        return runner

    def _engine(self, runner: StepRunner | GpuRunner, tokenizer: Tokenizer) -> Engine:
        """An engine of the runner's kind."""
        options = self._options
        kind = OverlappedEngine if isinstance(runner, GpuRunner) else Engine
        return kind(
            runner,  # type: ignore[arg-type]
            tokenizer,
            max_step_tokens=options.backend.max_step_tokens,
            reuse_prefixes=options.reuse_prefixes,
            speculation=options.speculation,
            laps=self._laps,
            chunk_s=options.chunk_s,
        )

    def _runner(
        self, step: Step, config: ModelConfig, choice: Choice, max_tokens: int
    ) -> StepRunner | GpuRunner:
        """Weights in memory of our own, read and checked on the way there."""
        weights = step_weights(
            step,
            dtype=choice.load_dtype,
            check_hash=self._options.verify_hashes,
            open_file=self._open_file,
        )
        try:
            return self._backend.runner(config, check_weights(weights), choice, max_tokens)
        except (VolumeError, CheckpointRefused):
            raise
        except ValueError as error:
            raise StepDamaged(f"{step.path}: {error}") from error

    def _tokenizer(self, step: Step, files: SideFiles) -> Tokenizer:
        """The step's, or the last one where every byte is the same.

        The library reads one in a single call that stalls every stream for a tenth of a second.
        """
        key = tuple(
            f"{name} {hashlib.sha256(files.read(name) or b'').hexdigest()}"
            for name in sorted(step.manifest.files)
            if name != WEIGHTS_FILE and not name.startswith(TRAINING_STATE_PREFIX)
        )
        if key not in self._tokenizers:
            self._tokenizers = {key: _load_tokenizer(step, files)}
        return self._tokenizers[key]


def _load_tokenizer(step: Step, files: SideFiles) -> Tokenizer:
    try:
        return load_tokenizer(step, files)
    except Refused as error:
        raise CheckpointRefused(error.part, str(error)) from error


def weights_bytes(step: Step) -> int:
    """Size of the weights' file; 0 where the manifest has none, which loading will say."""
    entry = step.manifest.files.get(WEIGHTS_FILE)
    return 0 if entry is None else entry.size

"""From a step of the volume to a model that can be served, beside the one that is.

Everything that can be wrong with a step is found here, before a request could see it.
"""

import dataclasses
import time

import torch

from lm.config import ModelConfig
from lm.decoder import Decoder, decoder_from_weights
from lm.tokenizer import Tokenizer
from lm.volume import (
    ReadFile,
    Step,
    StepDamaged,
    load_model_config,
    read_file,
    read_plain,
)
from lm.volume.content import CONFIG_FILE, WEIGHTS_FILE
from lm.volume.manifest import TRAINING_STATE_PREFIX
from service import memory
from service.backend import Backend, BackendOptions
from service.catalog import checkpoint_of
from service.engine.engine import Engine
from service.engine.served import ServedModel
from service.gate import check_logits, check_tokenizer, check_weights
from service.probe import bits_per_byte, greedy_continuation, is_degenerate
from service.weights import served_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """How models are put into memory."""

    backend: BackendOptions
    max_model_tokens: int | None
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

    def __init__(self, options: LoaderOptions, read: ReadFile = read_plain) -> None:
        self._options = options
        self._read = read
        self._backend = Backend(options.backend)
        self._tokenizers: dict[tuple[str, ...], Tokenizer] = {}
        """The last one, by the hashes of its files."""

    def load(self, step: Step) -> ServedModel:
        """Load a step; raises ``VolumeError`` or ``CheckpointRefused`` with the reason."""
        started = time.perf_counter()
        options = self._options
        self._check_small_files(step)
        config = load_model_config(step)
        tokenizer = self._tokenizer(step)
        choice = self._backend.choose(config)
        decoder = self._decoder(step, config, choice.load_dtype)
        check_tokenizer(decoder, tokenizer, step.manifest.details.tokenizer_fingerprint)
        check_weights(decoder)
        max_tokens = min(
            options.max_model_tokens or config.max_position_embeddings,
            config.max_position_embeddings,
        )
        runner = self._backend.runner(decoder, choice, max_tokens)
        del decoder  # the kernels have packed it
        memory.trim()  # several times what is served went through the allocator
        check_logits(runner, tokenizer)
        engine = Engine(
            runner,
            tokenizer,
            max_step_tokens=options.backend.max_step_tokens,
            reuse_prefixes=options.reuse_prefixes,
            speculation=options.speculation,
        )
        engine.warm_up()
        return ServedModel(
            checkpoint=checkpoint_of(step),
            tokenizer=tokenizer,
            engine=engine,
            max_model_tokens=max_tokens,
            dtype=choice.precision,
            backend=choice.name,
            device=str(options.backend.device),
            bits_per_byte=bits_per_byte(runner, tokenizer)
            if options.measure_bits_per_byte
            else None,
            is_degenerate=options.look_for_loops
            and is_degenerate(greedy_continuation(engine, tokenizer, max_tokens)),
            load_s=time.perf_counter() - started,
        )

    def _check_small_files(self, step: Step) -> None:
        """Compare everything that is read by path, so everything but the weights."""
        for name in step.manifest.files:
            if name != WEIGHTS_FILE and not name.startswith(TRAINING_STATE_PREFIX):
                read_file(step, name, check_hash=self._options.verify_hashes, read=self._read)

    def _tokenizer(self, step: Step) -> Tokenizer:
        """The step's, or the last one where every byte is the same.

        The library reads one in a single call that stalls every stream for a tenth of a second.
        """
        if not self._options.verify_hashes:
            return load_tokenizer(step)
        others = {WEIGHTS_FILE, CONFIG_FILE}
        files = {name: file.sha256 for name, file in step.manifest.files.items()}
        key = tuple(
            f"{name} {sha256}"
            for name, sha256 in sorted(files.items())
            if name not in others and not name.startswith(TRAINING_STATE_PREFIX)
        )
        if key not in self._tokenizers:
            self._tokenizers = {key: load_tokenizer(step)}
        return self._tokenizers[key]

    def _decoder(self, step: Step, config: ModelConfig, dtype: torch.dtype) -> Decoder:
        """Weights in memory of our own, in a dtype and on the device to serve from."""
        options = self._options
        content = read_file(step, WEIGHTS_FILE, check_hash=options.verify_hashes, read=self._read)
        try:
            weights = served_weights(content, dtype=dtype, device=options.backend.device)
            decoder = decoder_from_weights(config, weights)
        except ValueError as error:
            raise StepDamaged(f"{step.path}: {error}") from error
        decoder.requires_grad_(requires_grad=False)
        return decoder.to(device=options.backend.device, dtype=dtype)  # what is no parameter, too


def weights_bytes(step: Step) -> int:
    """Size of the weights' file; 0 where the manifest has none, which loading will say."""
    entry = step.manifest.files.get(WEIGHTS_FILE)
    return 0 if entry is None else entry.size


def load_tokenizer(step: Step) -> Tokenizer:
    """The step's tokenizer; raises ``StepDamaged`` if there is none that can be read."""
    try:
        return Tokenizer.load(step.path)
    except (ValueError, OSError) as error:
        raise StepDamaged(f"{step.path}: {error}") from error

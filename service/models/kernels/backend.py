"""Decides what computes a model's steps and in which precision: native kernels or PyTorch.

By itself a CPU serves 8-bit weights through the kernels, whose perplexity is within 1% of
bfloat16's, wherever the kernels exist and know the model's shape; else PyTorch serves, in bfloat16
where that is measured to be worth it.
"""

import dataclasses
import logging
from collections.abc import Iterable

import torch

from lm.model.config import ModelConfig
from lm.model.decoder import decoder_from_weights
from lm.model.device import bfloat16_speedup
from lm.safetensors_file import Piece, whole
from service.engine.gpu.fused import why_unsupported as why_not_fused
from service.engine.gpu.placing import FusedModels
from service.engine.gpu.runner import GpuRunner
from service.engine.graphs.cache import GraphCache
from service.engine.graphs.cuda import CudaRecorder
from service.engine.graphs.fused import FusedDecoder
from service.engine.graphs.runner import GraphRunner
from service.engine.native.cache import NativeCache
from service.engine.native.library import FORMATS, Library
from service.engine.native.packing import Packer, why_unsupported
from service.engine.native.runner import NativeRunner
from service.engine.pytorch.cache import SlotCache
from service.engine.pytorch.runner import Runner, StepRunner
from service.engine.served_model import FUSED
from service.models.kernels.gpu_choices import choices_on_disk
from service.models.kernels.native import NoKernels, open_library
from service.models.refused import CheckpointRefused
from service.observe import memory

WORTHWHILE_SPEEDUP = 1.2
"""bfloat16 is chosen by itself only where it is at least so much faster than float32."""
BFLOAT16_CARD = (8, 0)
"""Compute capability from which cards have products in bfloat16."""
CACHE_SHARE = 0.8
"""Of the memory that is available when a model is loaded, what its full cache may take."""
NATIVE_ALONE = {"int8", "int4"}
"""Precisions that PyTorch has no path for here."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """What the settings say about computing."""

    device: torch.device
    dtype: str
    """``auto`` or a precision's name."""
    backend: str = "auto"
    """``auto``, ``native`` or ``torch``."""
    threads: int | None = None
    """Of the native kernels; by default one a core."""
    num_slots: int
    max_step_tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """How one model is computed."""

    precision: str
    library: Library | None = None
    """The kernels; ``None`` is PyTorch."""
    is_fused: bool = False
    """Whether the fused kernels of a GPU compute it."""
    not_fused: str | None = None
    """Why they do not, where there is a GPU."""

    @property
    def name(self) -> str:
        """For people: ``native avx512``, ``fused`` or ``torch``."""
        if self.is_fused:
            return FUSED
        return "torch" if self.library is None else f"native {self.library.isa}"

    @property
    def load_dtype(self) -> torch.dtype:
        """Dtype that weights are wanted in: float32 where kernels round them."""
        name = self.precision if self.library is None else "float32"
        dtype: torch.dtype = getattr(torch, name)
        return dtype


class Backend:
    """Chooses for each model; the kernels' threads are those of the process."""

    def __init__(self, options: BackendOptions) -> None:
        """Open the kernels if they may be used, from a thread of normal priority.

        Raises ``ValueError`` if they are asked for and there are none.
        """
        self._options = options
        self._torch_threads = options.threads or torch.get_num_threads()
        self._auto_dtype: str | None = None
        self._library: Library | None = None
        self._fused: FusedModels | None = None
        self._fused_fault: str | None = None
        """Why the fused kernels are not used any more."""
        must = options.backend == "native" or options.dtype in NATIVE_ALONE
        may = options.dtype in {"auto", *FORMATS} and options.device.type == "cpu"
        if must and not (may and options.backend != "torch"):
            raise ValueError(
                f"the native kernels compute {', '.join(FORMATS)} on a CPU; "
                f"device {options.device}, dtype {options.dtype}, backend {options.backend} "
                "do not go together"
            )
        if may and options.backend != "torch":
            self._open(must=must)

    def _open(self, *, must: bool) -> None:
        try:
            self._library = open_library(threads=self._options.threads)
        except NoKernels as error:
            if must:
                raise ValueError(str(error)) from error
            logger.info("PyTorch serves, without native kernels: %s", error)

    def choose(self, config: ModelConfig) -> Choice:
        """How to compute a model; raises ``CheckpointRefused`` if the settings leave no way."""
        dtype = self._options.dtype
        reason = why_unsupported(config)
        if self._library is not None and reason is None:
            return Choice(precision="int8" if dtype == "auto" else dtype, library=self._library)
        if reason is not None and (self._options.backend == "native" or dtype in NATIVE_ALONE):
            raise CheckpointRefused("unsupported", f"no native kernels for this model: {reason}")
        precision = self._measured(config) if dtype == "auto" else dtype
        if self._options.device.type != "cuda":
            return Choice(precision=precision)
        reason = self._why_not_fused(config, precision)
        return Choice(precision=precision, is_fused=reason is None, not_fused=reason)

    def refuse_fused(self, reason: str) -> None:
        """Compute no further model with the fused kernels."""
        logger.warning("PyTorch serves instead of the fused kernels: %s", reason)
        self._fused_fault = reason
        self._fused = None

    def _why_not_fused(self, config: ModelConfig, precision: str) -> str | None:
        """Why the fused kernels of a GPU do not compute a model; ``None`` if they do."""
        if self._options.backend == "torch":
            return "backend is set to torch"
        dtype: torch.dtype = getattr(torch, precision)
        reason = self._fused_fault or why_not_fused(config, dtype, self._options.device)
        if reason is not None:
            logger.info("PyTorch serves, without fused kernels: %s", reason)
        return reason

    def runner(
        self, config: ModelConfig, weights: Iterable[Piece], choice: Choice, max_tokens: int
    ) -> StepRunner | GpuRunner:
        """A runner over weights in the choice's ``load_dtype``, with an empty cache.

        Raises ``ValueError`` if they do not fit the config.
        """
        options = self._options
        if choice.library is not None:
            packer = Packer(config, choice.precision, choice.library)
            for piece in weights:
                packer.add(piece.name, piece.first_row, piece.rows)
            num_slots = self._num_slots(config, max_tokens, element_bytes=2)
            slots = NativeCache(config, num_slots=num_slots, max_tokens=max_tokens)
            return NativeRunner(
                choice.library, packer.finish(), slots, max_step_tokens=options.max_step_tokens
            )
        if choice.is_fused:
            return self._fused_models().runner(config, weights, max_tokens)
        tensors = whole(weights, dtype=choice.load_dtype, device=options.device)
        decoder = decoder_from_weights(config, tensors).requires_grad_(requires_grad=False)
        decoder.to(device=options.device, dtype=choice.load_dtype)  # what is no parameter, too
        if options.device.type == "cuda" and config.is_llama:
            decoder = FusedDecoder(decoder)
        num_slots = self._num_slots(config, max_tokens, choice.load_dtype.itemsize)
        kind = GraphCache if options.device.type == "cuda" else SlotCache
        cache = kind(
            config,
            num_slots=num_slots,
            max_tokens=max_tokens,
            dtype=choice.load_dtype,
            device=options.device,
        )
        if isinstance(cache, GraphCache):
            return GraphRunner(decoder, cache, CudaRecorder(options.device))
        return Runner(decoder, cache, self._torch_threads)

    def _fused_models(self) -> FusedModels:
        if self._fused is None:
            options = self._options
            self._fused = FusedModels(
                options.device,
                num_slots=options.num_slots,
                max_step_tokens=options.max_step_tokens,
                choose=choices_on_disk(),
            )
        return self._fused

    def _num_slots(self, config: ModelConfig, max_tokens: int, element_bytes: int) -> int:
        """The slots asked for, or as many as could all be filled with the memory there is.

        A CPU gives memory to slots only as they fill, when it is too late to refuse anybody. On a
        GPU half of the memory is left to the model that will take over.
        """
        wanted = self._options.num_slots
        if self._options.device.type == "cuda":
            available: int | None = torch.cuda.mem_get_info(self._options.device)[0] // 2
        else:
            available = memory.available_bytes()
        if available is None:
            return wanted
        slot_bytes = max_tokens * config.kv_bytes_per_token(element_bytes)
        fitting = max(1, int(CACHE_SHARE * available) // slot_bytes)
        if fitting < wanted:
            logger.warning(
                "there is memory for %d slots of %d tokens, not for %d: lower max_model_tokens",
                *(fitting, max_tokens, wanted),
            )
        return min(wanted, fitting)

    def _measured(self, config: ModelConfig) -> str:
        """bfloat16 where a measurement at the first model's size says so, else float32."""
        if self._auto_dtype is None and self._options.device.type == "cuda":
            # A product of a small model takes as long as its launch: a clock tells nothing there.
            is_native = torch.cuda.get_device_capability(self._options.device) >= BFLOAT16_CARD
            self._auto_dtype = "bfloat16" if is_native else "float32"
        if self._auto_dtype is None:
            speedup = bfloat16_speedup(
                self._options.device,
                rows=self._options.num_slots,
                width=config.hidden_size,
                inner=config.intermediate_size,
            )
            self._auto_dtype = "bfloat16" if speedup >= WORTHWHILE_SPEEDUP else "float32"
            logger.info(
                "bfloat16 runs at %.2f times float32 here: %s chosen", speedup, self._auto_dtype
            )
        return self._auto_dtype

"""Puts models on a GPU: one pair of weight buffers, made anew for a model of another shape."""

import dataclasses
import logging
import threading
import time
from collections.abc import Iterable

import torch

from lm.model.config import ModelConfig
from lm.safetensors_file import Piece
from service.engine.gpu.buffers.cache import GpuCache
from service.engine.gpu.buffers.recorder import GraphRecorder
from service.engine.gpu.buffers.weight_set import HEAD_ROWS, WeightSet
from service.engine.gpu.double_buffer import NUM_SETS, DoubleBuffer
from service.engine.gpu.fused import Choose, FusedKernels, FusedSampler
from service.engine.gpu.layout import BUCKETS
from service.engine.gpu.runner import GpuRunner
from service.engine.gpu.sampling.adjustments import Adjustments

CACHE_SHARE = 0.9
"""Of the memory that is free beside weights and workspaces, what the cache may take; the rest is
for copies of logits and for libraries."""
WORKSPACE_BYTES = 16
"""For each row of the largest flat step and each number of its widest tensor: a bound on what all
steps' workspaces take, not a measurement."""

logger = logging.getLogger(__name__)


class FusedFault(RuntimeError):
    """The fused kernels cannot be compiled, launched or recorded here; the message says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What has to be equal for two models to share buffers."""

    config: ModelConfig
    max_tokens: int


class FusedModels:
    """Makes runners of fused kernels on one device, for weights in bfloat16."""

    dtype = torch.bfloat16

    def __init__(
        self,
        device: torch.device,
        *,
        num_slots: int,
        max_step_tokens: int,
        choose: Choose | None = None,
    ) -> None:
        """``choose`` says which kernels are the fastest on the device."""
        self._device = device
        self._choose = choose
        self._num_slots = num_slots
        self._max_step_tokens = max_step_tokens
        self._shape: Shape | None = None
        self._buffer: DoubleBuffer | None = None
        self._lock = threading.Lock()

    def runner(self, config: ModelConfig, pieces: Iterable[Piece], max_tokens: int) -> GpuRunner:
        """A runner over these weights.

        Raises ``ValueError`` if they do not fit the config, ``MemoryError`` or
        ``torch.OutOfMemoryError`` if there is no room for them, and ``FusedFault``.
        """
        with self._lock:
            return self._buffer_of(Shape(config=config, max_tokens=max_tokens)).runner(pieces)

    def _buffer_of(self, shape: Shape) -> DoubleBuffer:
        """The buffers of a shape; those before are kept until there are new ones.

        Only buffers that hold no model are let go of first, for their memory.
        """
        if self._buffer is not None and self._shape == shape:
            return self._buffer
        if self._buffer is not None and self._buffer.is_unused:
            self._buffer = None
        buffer = self._made(shape)
        self._buffer, self._shape = buffer, shape
        return buffer

    def _made(self, shape: Shape) -> DoubleBuffer:
        """Buffers, or ``FusedFault``: a compiler or driver may refuse in many ways."""
        try:
            return self._make(shape)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            logger.exception("the fused kernels cannot be used")
            first_line = (str(error).strip().splitlines() or [""])[0]
            raise FusedFault(f"{type(error).__name__}: {first_line[:200]}") from error

    def _make(self, shape: Shape) -> DoubleBuffer:
        """Buffers, every step recorded."""
        began = time.perf_counter()
        config = shape.config
        num_slots = self._slots(shape)
        cache = GpuCache(
            config,
            num_slots=num_slots,
            max_tokens=shape.max_tokens,
            dtype=self.dtype,
            device=self._device,
        )
        recorders: list[GraphRecorder] = []

        def make_set() -> WeightSet:
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            recorders.append(GraphRecorder(stream))
            rows = max(num_slots, HEAD_ROWS[-1])
            return WeightSet(
                config,
                cache.tensors,
                num_slots=num_slots,
                max_step_tokens=max(self._max_step_tokens, num_slots + 1),
                kernels=FusedKernels(self._choose),
                sampler=FusedSampler(rows, config.vocab_size, num_slots + 1, self._device),
                record=recorders[-1],
                stream=stream,
            )

        buffer = DoubleBuffer(cache, make_set)
        logger.info(
            "recorded %d steps for %d slots of %d tokens in %.1f s",
            sum(recorder.num_recorded for recorder in recorders),
            *(num_slots, shape.max_tokens, time.perf_counter() - began),
        )
        return buffer

    def _slots(self, shape: Shape) -> int:
        """The slots that are wanted, or as many as the card's free memory holds."""
        config = shape.config
        free_bytes, _ = torch.cuda.mem_get_info(self._device)
        weights = sum(config.parameter_counts().values()) * self.dtype.itemsize
        widest = max(2 * config.intermediate_size, config.vocab_size // 8, 2 * config.hidden_size)
        workspaces = BUCKETS[-1].rows * widest * WORKSPACE_BYTES
        # Logits in float32, and as much again for the sampler's lists.
        logits = 2 * 4 * max(self._num_slots, HEAD_ROWS[-1]) * config.vocab_size
        adjustments = Adjustments.num_bytes(1, config.vocab_size)
        keys = shape.max_tokens * config.kv_bytes_per_token(self.dtype.itemsize)
        fitting = slots_that_fit(
            wanted=self._num_slots,
            slot_bytes=keys + NUM_SETS * adjustments,
            free_bytes=free_bytes,
            # One more slot, which no sequence gets, has adjustments, too.
            fixed_bytes=NUM_SETS * (weights + workspaces + logits + adjustments) + keys,
            share=CACHE_SHARE,
        )
        if fitting < self._num_slots:
            logger.warning(
                "the GPU has memory for %d slots of %d tokens, not for %d: lower max_model_tokens",
                *(fitting, shape.max_tokens, self._num_slots),
            )
        return fitting


def slots_that_fit(
    *, wanted: int, slot_bytes: int, free_bytes: int, fixed_bytes: int, share: float
) -> int:
    """Slots of a cache by the memory of the card, at least one.

    ``fixed_bytes`` are taken by what does not depend on the slots; ``share`` of the rest is used.
    """
    room = int(share * max(0, free_bytes - fixed_bytes))
    return max(1, min(wanted, room // slot_bytes))

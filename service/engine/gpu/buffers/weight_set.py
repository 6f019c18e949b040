"""One set of weight buffers with every step recorded over it, to be filled again and again."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from lm.model.config import ModelConfig
from lm.safetensors_file import Piece
from service.engine.gpu.buffers.filling import fill
from service.engine.gpu.buffers.recorded import (
    Record,
    RecordedDecode,
    RecordedFlat,
    RecordedHead,
    Shared,
)
from service.engine.gpu.buffers.staging import StagedCopy
from service.engine.gpu.kernel_set import Sampler, StepKernels
from service.engine.gpu.layout import BUCKETS, Bucket
from service.engine.gpu.tensors import DecoderWeights, KeyValues, empty_weights

DECODE_ROWS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256)
"""Rows of the recorded decoding steps; a step takes the smallest that holds it."""
MAX_LONG_ROWS = 8
SHORT_TOKENS = 1024
"""Steps of up to so many rows are recorded twice, for sequences up to this length and for all."""
HEAD_ROWS = (1, 4, 16, 64, 256)
"""The same for the rows of a flat step that yield logits."""


def sizes_up_to(sizes: tuple[int, ...], most: int) -> list[int]:
    """The sizes that steps of up to so many rows need."""
    return [*(size for size in sizes if size < most), most]


class WeightSet:
    """Weights, and the steps that read them; the cache is shared with other sets."""

    def __init__(
        self,
        config: ModelConfig,
        cache: KeyValues,
        *,
        num_slots: int,
        max_step_tokens: int,
        kernels: StepKernels,
        sampler: Sampler,
        record: Record,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        """``stream`` is where the set is filled, recorded and tried out; none on a CPU."""
        self._stream = stream
        device, dtype = cache.key.device, cache.key.dtype
        self.weights: DecoderWeights = empty_weights(config, dtype, device)
        most = max(num_slots, HEAD_ROWS[-1])
        self.shared = Shared(
            config=config,
            weights=self.weights,
            cache=cache,
            last_tokens=torch.zeros(cache.key.shape[1], dtype=torch.int32, device=device),
            logits=torch.zeros(most, config.vocab_size, device=device, dtype=torch.float32),
            kernels=kernels,
            sampler=sampler,
            record=record,
        )
        self.flat_buckets = buckets_up_to(max_step_tokens)
        largest = self.flat_buckets[-1].rows
        self.hidden = torch.zeros(largest, config.hidden_size, dtype=dtype, device=device)
        with torch.inference_mode():
            self.decodes = [
                (rows, tokens, RecordedDecode(self.shared, rows, is_long=tokens > SHORT_TOKENS))
                for rows, tokens in decode_sizes(num_slots, cache.key.shape[3])
            ]
            """Rows and tokens that a step is for, the smallest first."""
            self.flats = {
                bucket: RecordedFlat(self.shared, bucket, self.hidden)
                for bucket in self.flat_buckets
            }
            self.heads = {rows: RecordedHead(self.shared, rows, self.hidden) for rows in HEAD_ROWS}

    def fill(self, pieces: Iterable[Piece]) -> None:
        """Copy a model into the buffers, beside what the device does for others.

        Raises ``ValueError`` naming what does not fit; the buffers hold a mixture then.
        """
        with self.on_its_stream(), torch.inference_mode():
            copy = Tensor.copy_ if self._stream is None else StagedCopy().copy
            fill(self.weights, self.shared.config, pieces, copy)

    @contextlib.contextmanager
    def on_its_stream(self) -> Iterator[None]:
        """Compute beside what the device does for others; at the end all of it is done."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
            self._stream.synchronize()


def decode_sizes(num_slots: int, max_tokens: int) -> list[tuple[int, int]]:
    """Rows and tokens of the decoding steps; the first that is large enough is the best."""
    return [
        (rows, tokens)
        for rows in sizes_up_to(DECODE_ROWS, num_slots)
        for tokens in sorted({SHORT_TOKENS, max_tokens})
        if tokens == max_tokens or (rows <= MAX_LONG_ROWS and tokens < max_tokens)
    ]


def buckets_up_to(max_step_tokens: int) -> tuple[Bucket, ...]:
    """The buckets that flat steps of up to so many tokens need."""
    smaller = [bucket for bucket in BUCKETS if bucket.rows < max_step_tokens]
    return BUCKETS[: min(len(smaller) + 1, len(BUCKETS))]

"""Runs a plan through the kernels: the counterpart of ``service.engine.pytorch.runner``."""

import ctypes
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from lm.model.config import ModelConfig
from service.engine.native.cache import PANEL, NativeCache
from service.engine.native.library import PARTS, Library, StepArguments
from service.engine.native.packing import PackedWeights
from service.engine.pytorch.runner import StepOutput, use_threads
from service.engine.scheduling.plan import Plan


class NativeRunner:
    """Packed weights and their cache; one plan in, the logits that its chunks yield out."""

    def __init__(
        self, library: Library, weights: PackedWeights, cache: NativeCache, *, max_step_tokens: int
    ) -> None:
        assert cache.max_tokens <= weights.config.max_position_embeddings
        self._library = library
        self._weights = weights
        self._max_rows = max_step_tokens
        model = library.functions.nestling_model_new(
            weights.shape(max_step_tokens), weights.structure
        )
        if not model:
            raise MemoryError(f"no memory for steps of {max_step_tokens} tokens")
        self._model = ctypes.c_void_p(model)
        self._pool: ctypes.c_void_p | None = None
        """The threads of its steps; ``None`` are the library's."""
        self._nanoseconds = torch.zeros(len(PARTS), dtype=torch.int64)
        self.cache = cache

    def __del__(self) -> None:
        """Free the scratch memory."""
        if hasattr(self, "_model"):
            self._library.functions.nestling_model_free(self._model)

    @property
    def config(self) -> ModelConfig:
        """Shape of the decoder."""
        return self._weights.config

    def keep_aside(self) -> None:
        """Compute on the calling thread alone: another model serves with the library's threads."""
        self._pool = self._library.alone()

    def serve(self) -> None:
        """Compute with the library's threads from now on."""
        self._pool = None

    @torch.inference_mode()
    def run(self, plan: Plan) -> StepOutput:
        """Compute a plan."""
        use_threads(1)  # what PyTorch has left to do is small; its threads would spin beside ours
        chunks = plan.chunks
        ends = list(itertools.accumulate(chunk.num_tokens for chunk in chunks))
        logits, finite = self.compute(
            [token for chunk in chunks for token in chunk.token_ids],
            [position for c in chunks for position in range(c.start, c.end)],
            [c.slot for c in chunks for _ in range(c.num_tokens)],
            [
                row
                for chunk, end in zip(chunks, ends, strict=True)
                for row in range(end - chunk.num_logits, end)
            ],
        )
        return StepOutput(
            logits,
            tuple(
                all(finite[end - chunk.num_tokens : end])
                for chunk, end in zip(chunks, ends, strict=True)
            ),
        )

    def compute(
        self, token_ids: list[int], positions: list[int], slots: list[int], logit_rows: list[int]
    ) -> tuple[Tensor, list[bool]]:
        """Logits [logit rows, V] of some rows of a step, and which rows are finite.

        Rows of a sequence follow one another in the order of their positions. Raises ``IndexError``
        for numbers that the model, the cache or a step has no room for.
        """
        rows = len(token_ids)
        numbers = torch.tensor([*token_ids, *positions, *slots, *logit_rows], dtype=torch.int32)
        vocab_size = self._weights.config.vocab_size
        logits = torch.empty(len(logit_rows), -(-vocab_size // PANEL) * PANEL)
        finite = torch.empty(rows, dtype=torch.bool)
        address, size = numbers.data_ptr(), numbers.element_size()
        step = StepArguments(
            rows=rows,
            logit_rows=len(logit_rows),
            token_ids=address,
            positions=address + rows * size,
            slots=address + 2 * rows * size,
            logit_row=address + 3 * rows * size,
            keys=self.cache.key.data_ptr(),
            values=self.cache.value.data_ptr(),
            num_slots=self.cache.num_slots,
            max_tokens=self.cache.padded_tokens,
            logits=logits.data_ptr(),
            logits_stride=logits.stride(0),
            finite=finite.data_ptr(),
            nanoseconds=self._nanoseconds.data_ptr(),
        )
        self._library.step(self._model, step, self._pool)
        return logits[:, :vocab_size], finite.tolist()

    @torch.inference_mode()
    def score(self, token_ids: Sequence[int]) -> Tensor:
        """Logits [T, V] after each token of a text; overwrites slot 0."""
        parts = []
        for start in range(0, len(token_ids), self._max_rows):
            part = list(token_ids[start : start + self._max_rows])
            rows = range(len(part))
            positions = [start + row for row in rows]
            parts.append(self.compute(part, positions, [0] * len(part), list(rows))[0])
        return torch.cat(parts)

    def profile(self) -> dict[str, float]:
        """Seconds spent in each part of all steps so far, by the calling thread's clock."""
        return dict(zip(PARTS, (self._nanoseconds / 1e9).tolist(), strict=True))

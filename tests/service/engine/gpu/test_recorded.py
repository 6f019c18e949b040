import gc
import weakref
from typing import Any

import torch
from serving.plain_kernels import PlainKernels, PlainSampler
from toys import toy_config

from service.engine.gpu.buffers.cache import GpuCache
from service.engine.gpu.buffers.weight_set import DECODE_ROWS, HEAD_ROWS, WeightSet, decode_sizes


class TrackedKernels(PlainKernels):
    """Remembers its steps without holding them."""

    def __init__(self) -> None:
        self.steps: list[weakref.ref[Any]] = []

    def _tracked(self, step: Any) -> Any:
        self.steps.append(weakref.ref(step))
        return step

    def decode(self, *arguments: Any, **options: Any) -> Any:
        return self._tracked(super().decode(*arguments, **options))

    def prefill(self, *arguments: Any) -> Any:
        return self._tracked(super().prefill(*arguments))

    def head(self, *arguments: Any) -> Any:
        return self._tracked(super().head(*arguments))


def test_steps_live_as_long_as_what_was_recorded_of_them() -> None:
    """A recording holds addresses alone: freed workspaces would become somebody else's memory."""
    config = toy_config()
    cache = GpuCache(
        config,
        num_slots=3,
        max_tokens=32,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    kernels = TrackedKernels()
    weight_set = WeightSet(
        config,
        cache.tensors,
        num_slots=3,
        max_step_tokens=16,
        kernels=kernels,
        sampler=PlainSampler(),
        record=lambda compute: lambda: None,  # holds nothing, as a graph does
    )
    gc.collect()
    count = len(weight_set.decodes) + len(weight_set.flats) + len(weight_set.heads)
    assert len(kernels.steps) == count > 3
    assert all(step() is not None for step in kernels.steps)


def test_sizes_hold_whatever_a_step_may_need() -> None:
    for num_slots, max_tokens in ((1, 8), (3, 2048), (100, 1024), (256, 8192)):
        sizes = decode_sizes(num_slots, max_tokens)
        assert sizes == sorted(sizes)
        assert sizes[-1] == (num_slots, max_tokens)
        assert {tokens for rows, tokens in sizes if rows == num_slots} >= {max_tokens}
        assert all(rows in (*DECODE_ROWS, num_slots) for rows, _ in sizes)
    assert list(HEAD_ROWS) == sorted(HEAD_ROWS)

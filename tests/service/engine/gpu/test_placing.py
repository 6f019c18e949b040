"""Buffers are made once for a shape, and outlive a shape that finds no room beside them."""

import dataclasses
from typing import Any

import pytest
import torch
from serving import pieces
from serving.plain_kernels import PlainKernels, PlainSampler
from toys import toy_config, toy_decoder

from lm.model.config import ModelConfig
from service.engine.gpu import placing
from service.engine.gpu.buffers.cache import GpuCache
from service.engine.gpu.buffers.weight_set import WeightSet
from service.engine.gpu.double_buffer import NUM_SETS, DoubleBuffer
from service.engine.gpu.placing import FusedFault, FusedModels, Shape
from service.engine.gpu.sampling.adjustments import Adjustments

CPU = torch.device("cpu")
SMALL = toy_config()
WIDE = dataclasses.replace(SMALL, intermediate_size=SMALL.intermediate_size * 2)


class Models(FusedModels):
    """Places models on a CPU; what it makes and how it fails is the test's."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__(CPU, num_slots=2, max_step_tokens=16)
        self.made: list[ModelConfig] = []
        self.fault: Exception | None = None

    def _make(self, shape: Shape) -> DoubleBuffer:
        if self.fault is not None:
            raise self.fault
        self.made.append(shape.config)
        cache = GpuCache(
            shape.config, num_slots=2, max_tokens=shape.max_tokens, dtype=self.dtype, device=CPU
        )

        def make_set() -> WeightSet:
            return WeightSet(
                shape.config,
                cache.tensors,
                num_slots=2,
                max_step_tokens=16,
                kernels=PlainKernels(),
                sampler=PlainSampler(),
                record=lambda compute: compute,
            )

        return DoubleBuffer(cache, make_set)

    def place(self, config: ModelConfig) -> Any:
        return self.runner(config, pieces(toy_decoder(0, config)), 32)


def test_models_of_one_shape_share_buffers() -> None:
    models = Models()
    first, second = models.place(SMALL), models.place(SMALL)
    assert models.made == [SMALL]
    assert first.cache is second.cache


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_shape_that_finds_no_room_leaves_the_buffers_to_those_that_serve(
    fault: Exception,
) -> None:
    models = Models()
    serving = models.place(SMALL)
    models.fault = fault
    with pytest.raises(type(fault)):
        models.place(WIDE)
    assert models.place(SMALL).cache is serving.cache
    assert models.made == [SMALL]


def test_buffers_without_a_model_make_room_for_another_shape() -> None:
    models = Models()
    models.place(SMALL)  # and let go of at once
    held = models._buffer
    models.place(WIDE)
    assert models.made == [SMALL, WIDE]
    assert models._buffer is not held


def test_whatever_else_fails_is_a_fault_of_the_kernels() -> None:
    models = Models()
    models.fault = RuntimeError("Failed to find C compiler.\nPlease specify it")
    with pytest.raises(FusedFault, match=r"^RuntimeError: Failed to find C compiler\.$"):
        models.place(SMALL)


def test_a_slot_is_counted_with_all_that_is_made_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values, and in both sets the adjustments of the drawing."""
    counted: dict[str, float] = {}

    def fit(**given: float) -> int:
        counted.update(given)
        return 3

    monkeypatch.setattr(placing, "slots_that_fit", fit)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 40, 1 << 40))
    models = FusedModels(CPU, num_slots=256, max_step_tokens=16)
    assert models._slots(Shape(config=SMALL, max_tokens=64)) == 3

    def bytes_for(slots: int) -> int:
        cache = GpuCache(SMALL, num_slots=slots, max_tokens=64, dtype=torch.bfloat16, device=CPU)
        adjustments = Adjustments(slots, SMALL.vocab_size, CPU)
        tables = NUM_SETS * (adjustments.words.nbytes + adjustments.bias.nbytes)
        return cache.tensors.key.nbytes + cache.tensors.value.nbytes + tables

    assert counted["slot_bytes"] == bytes_for(8) - bytes_for(7)

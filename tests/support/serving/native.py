"""Native kernels over toys: a library for each instruction set of this processor."""

import functools

import pytest
from machine_tools import require_tool
from toys import toy_config, toy_decoder

from lm.model.config import ModelConfig
from service.engine.native.cache import NativeCache
from service.engine.native.library import Library
from service.engine.native.packing import pack
from service.engine.native.runner import NativeRunner
from service.models.kernels.native import open_library, supported_isas

ISAS = tuple(supported_isas()) or ("none",)
"""What tests of the kernels run for, the faster first; ``open_native`` skips ``none``."""
PRECISIONS = ("bfloat16", "int8", "int4")


def native_config() -> ModelConfig:
    """A toy that the kernels compute: two layers, three query heads of 32 over one key head.

    Its MLP is wide enough for two groups of activation scales.
    """
    return toy_config(
        hidden_size=96, intermediate_size=320, num_attention_heads=3, num_key_value_heads=1
    )


@functools.cache
def open_native(isa: str = ISAS[0], threads: int = 2) -> Library:
    """The kernels for an instruction set, by default the fastest; skips on a machine without."""
    if isa not in supported_isas():
        pytest.skip("there are no kernels for this processor")
    require_tool("g++", package="g++")
    return open_library(isa, threads)


def native_runner(
    library: Library,
    precision: str,
    *,
    config: ModelConfig | None = None,
    seed: int = 3,
    num_slots: int = 4,
    max_tokens: int = 256,
    max_step_tokens: int = 64,
) -> NativeRunner:
    """A runner over the weights of ``toy_decoder(seed, config)``."""
    config = config or native_config()
    weights = toy_decoder(seed, config).state_dict()
    return NativeRunner(
        library,
        pack(config, weights, precision, library),
        NativeCache(config, num_slots=num_slots, max_tokens=max_tokens),
        max_step_tokens=max_step_tokens,
    )

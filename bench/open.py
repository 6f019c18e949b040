"""Runners over one set of weights for the benchmarks of how requests are served together."""

import argparse
from pathlib import Path

import torch

from bench.engine import load, silent_tokenizer
from lm.tokenizer import Tokenizer
from service.engine.cache import SlotCache
from service.engine.native.cache import NativeCache
from service.engine.native.packing import pack
from service.engine.native.runner import NativeRunner
from service.engine.runner import Runner, StepRunner
from service.kernels import open_library

PRECISIONS = ("float32", "bfloat16", "int8", "int4")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is served, and by what."""
    parser.add_argument("--weights", type=Path, help="Hugging Face directory; else random weights")
    parser.add_argument("--backend", choices=("native", "torch"), default="native")
    parser.add_argument("--precision", choices=PRECISIONS, default="int8")


class Opener:
    """Makes runners of one model, each with a cache of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.name = f"{options.backend} {options.precision}"
        self.tokenizer = (
            silent_tokenizer() if options.weights is None else Tokenizer.load(options.weights)
        )
        is_native = options.backend == "native"
        dtype = torch.float32 if is_native else getattr(torch, options.precision)
        self._decoder = load(options.weights, dtype)
        if is_native:
            torch.set_num_threads(1)  # or its waiting threads take the cores from the kernels'
            self._library = open_library()
            self._packed = pack(
                self._decoder.config, self._decoder.state_dict(), options.precision, self._library
            )
        self._is_native = is_native

    def runner(self, *, num_slots: int, max_tokens: int, max_step_tokens: int) -> StepRunner:
        """A runner with so much room."""
        config = self._decoder.config
        if self._is_native:
            native = NativeCache(config, num_slots=num_slots, max_tokens=max_tokens)
            return NativeRunner(
                self._library, self._packed, native, max_step_tokens=max_step_tokens
            )
        weight = self._decoder.lm_head.weight
        cache = SlotCache(
            config,
            num_slots=num_slots,
            max_tokens=max_tokens,
            dtype=weight.dtype,
            device=weight.device,
        )
        return Runner(self._decoder, cache)

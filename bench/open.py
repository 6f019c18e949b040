"""Runners over one set of weights for the benchmarks of how requests are served together."""

import argparse
from pathlib import Path

import torch

from bench.engine import load, silent_tokenizer
from lm.model.device import pick_device
from lm.text.tokenizer import Tokenizer
from service.engine.graphs.cache import GraphCache
from service.engine.graphs.cuda import CudaRecorder
from service.engine.graphs.fused import FusedDecoder
from service.engine.graphs.runner import GraphRunner
from service.engine.native.cache import NativeCache
from service.engine.native.packing import pack
from service.engine.native.runner import NativeRunner
from service.engine.pytorch.cache import SlotCache
from service.engine.pytorch.runner import Runner, StepRunner
from service.models.kernels.native import open_library

PRECISIONS = ("float32", "bfloat16", "int8", "int4")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is served, and by what."""
    parser.add_argument("--weights", type=Path, help="Hugging Face directory; else random weights")
    parser.add_argument("--backend", choices=("native", "torch"), default="native")
    parser.add_argument("--precision", choices=PRECISIONS, default="int8")
    parser.add_argument("--device", default="cpu", help="cuda: PyTorch, as in service")


class Opener:
    """Makes runners of one model, each with a cache of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._device = pick_device(options.device)
        is_native = options.backend == "native" and self._device.type == "cpu"
        self.name = f"{'native' if is_native else self._device.type} {options.precision}"
        self.tokenizer = (
            silent_tokenizer() if options.weights is None else Tokenizer.load(options.weights)
        )
        dtype = torch.float32 if is_native else getattr(torch, options.precision)
        self._decoder = load(options.weights, dtype).to(self._device)
        if self._device.type == "cuda":
            self._decoder = FusedDecoder(self._decoder)
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
        dtype, device = self._decoder.lm_head.weight.dtype, self._device
        sizes = {"num_slots": num_slots, "max_tokens": max_tokens}
        if device.type == "cuda":
            recorded = GraphCache(config, **sizes, dtype=dtype, device=device)
            return GraphRunner(self._decoder, recorded, CudaRecorder(device))
        return Runner(self._decoder, SlotCache(config, **sizes, dtype=dtype, device=device))

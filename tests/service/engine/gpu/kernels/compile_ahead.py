"""Compiles every kernel that decode steps launch, for a card that is not here.

Run as a program, without TRITON_INTERPRET: ``compile_ahead.py CAPABILITY SHAPE ROWS…`` prints one
JSON object a kernel: its name, registers, bytes of spills, bytes of shared memory, and whether it
has instructions of programmatic dependent launch.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from lm.model.config import ModelConfig
from service.engine.gpu.kernels.choices import PARTS, Choices
from service.engine.gpu.kernels.decode_step import DecodeStep
from service.engine.gpu.kernels.launch import Launch
from service.engine.gpu.kernels.measure import attention_candidates, product_candidates
from service.engine.gpu.tensors import KeyValues, StepRows, empty_weights

SHAPES = {
    "smollm2-135m": ModelConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=1,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
    ),
    "2048-wide": ModelConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=1,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    ),
}
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32", torch.int8: "*i8"}
Call = tuple[JITFunction[Any], tuple[Any, ...], dict[str, Any]]


def main(capability: int, shape: str, rows: list[int]) -> None:
    """Compile what steps of so many rows launch, by default and as candidates."""
    calls: list[Call] = []

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        calls.append((self, args, kwargs))

    JITFunction.run = record  # type: ignore[method-assign]
    for count in rows:
        for choices in choices_of(SHAPES[shape], count):
            step(SHAPES[shape], count, choices, Launch(dependent=capability >= 90)).compute()
    done = set()
    for function, args, kwargs in calls:
        source, options, key = source_of(function, args, kwargs)
        if key not in done:
            done.add(key)
            compiled = triton.compile(
                source, target=GPUTarget("cuda", capability, 32), options=options
            )
            sys.stdout.write(json.dumps(describe(function, kwargs, compiled)) + "\n")


def choices_of(config: ModelConfig, rows: int) -> Iterator[Choices]:
    """Steps that together launch every candidate."""
    by_part = {part: product_candidates(config, rows, part) for part in PARTS}
    attentions = attention_candidates(config, rows)
    for index in range(max(len(attentions), *(len(found) for found in by_part.values()))):
        products = {part: found[index % len(found)] for part, found in by_part.items()}
        yield Choices(**products, attention=attentions[index % len(attentions)])


def step(config: ModelConfig, rows: int, choices: Choices, launch: Launch) -> DecodeStep:
    """A step over tensors without memory."""
    meta = torch.device("meta")
    places = torch.empty(rows, dtype=torch.int32, device=meta)
    cache = torch.empty(
        1, 256, config.num_key_value_heads, 8192, config.head_dim, dtype=torch.bfloat16, device=meta
    )
    return DecodeStep(
        config,
        empty_weights(config, torch.bfloat16, meta),
        KeyValues(key=cache, value=cache),
        StepRows(token_ids=places, positions=places, slots=places, last_tokens=places),
        torch.empty(rows, config.vocab_size, device=meta),
        torch.empty(rows, dtype=torch.int8, device=meta),
        choices,
        launch,
    )


def source_of(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[ASTSource, dict[str, int], str]:
    """What a launch would compile, its options, and a name of both."""
    given = {**dict(zip(function.arg_names, args, strict=False)), **kwargs}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for index, parameter in enumerate(function.params):
        name, value = parameter.name, given[parameter.name]
        if parameter.is_constexpr or (
            type(value) is int and value == 1 and not parameter.do_not_specialize
        ):
            signature[name], constants[name] = "constexpr", value
            continue
        if isinstance(value, Tensor):
            signature[name] = TYPES[value.dtype]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
        is_aligned = type(value) is int and value % 16 == 0 and not parameter.do_not_specialize
        if isinstance(value, Tensor) or is_aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
    options = {name: kwargs[name] for name in ("num_warps", "num_stages")}
    key = repr((function.__name__, signature, constants, attributes, options))
    return ASTSource(function, signature, constants, attributes), options, key


def describe(function: Any, kwargs: dict[str, Any], compiled: Any) -> dict[str, Any]:
    """Name, tiles and needs of a compiled kernel."""
    constants = {name: value for name, value in kwargs.items() if type(value) is int}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.run(
            [tool, "--dump-resource-usage", path], check=True, capture_output=True, text=True
        ).stdout
    registers, stack, local = (
        int(number) for number in re.findall(r"REG:(\d+) STACK:(\d+).*?LOCAL:(\d+)", usage)[-1]
    )
    return {
        "kernel": function.__name__,
        "registers": registers,
        "spills": stack + local,
        "shared": compiled.metadata.shared,
        "waits": compiled.asm["ptx"].count("griddepcontrol.wait"),
        **constants,
    }


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], [int(rows) for rows in sys.argv[3:]])

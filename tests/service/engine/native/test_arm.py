"""On ARM64 the kernels compute what they do here: cross-compiled, and run by an emulator."""

import ctypes
import functools
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from machine_tools import require_tool
from serving.native import PRECISIONS, native_config, open_native
from torch import Tensor
from toys import toy_decoder

from lm.model.config import ModelConfig
from service.engine.native import reference
from service.engine.native.library import FORMATS, ModelWeights
from service.engine.native.packing import HEAD_PRECISION, PackedWeights, pack, packed_bytes
from service.models.kernels.compiler import COMMON_FLAGS, SOURCES
from service.models.kernels.processor import INSTRUCTION_SETS

pytestmark = pytest.mark.slow
TEXT = tuple(random.Random(0).randrange(300) for _ in range(150))
EMULATED = ("-cpu", "max")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``replay.cpp`` and the kernels for ARM64."""
    compiler = require_tool("aarch64-linux-gnu-g++", package="g++-aarch64-linux-gnu")
    (neon,) = (isa for isa in INSTRUCTION_SETS if isa.name == "neon")
    flags = [flag for flag in (*COMMON_FLAGS, *neon.compiler_flags) if flag != "-shared"]
    path = tmp_path_factory.mktemp("arm") / "replay"
    sources = [str(Path(__file__).with_name("replay.cpp")), str(SOURCES / "step.cpp")]
    command = [compiler, *flags, "-static", "-Werror", f"-I{SOURCES}", *sources, "-o", str(path)]
    subprocess.run(command, check=True)
    return path


def emulated(program: Path, what: str, arrays: Sequence[bytes]) -> bytes:
    """What the program says of some arrays."""
    qemu = require_tool("qemu-aarch64", package="qemu-user")
    sent = b"".join(len(array).to_bytes(8, "little") + array for array in arrays)
    command = [qemu, *EMULATED, str(program), what]
    return subprocess.run(command, input=sent, capture_output=True, check=True).stdout


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def floats(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.float32)


def served_here(weight: Tensor, precision: str, packed: bytes) -> Tensor:
    """Float64 [N, K] of what the other processor packed."""
    if precision == "int4":
        tensor = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
        return reference.unpack_int4(tensor, *weight.shape)
    return reference.served_weight(open_native(), weight, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 13])
@pytest.mark.parametrize(("outputs", "inputs"), [(32, 32), (50, 96), (96, 576)])
def test_a_product_is_its_definition(
    program: Path, precision: str, rows: int, outputs: int, inputs: int
) -> None:
    generator = torch.Generator().manual_seed(rows)
    x, weight = (torch.randn(n, inputs, generator=generator) for n in (rows, outputs))
    x[:, 5] *= 30.0
    sizes = torch.tensor([FORMATS[precision], outputs, inputs, rows], dtype=torch.int32)
    out = emulated(program, "multiply", [bytes_of(sizes), bytes_of(weight), bytes_of(x)])
    num_bytes = 4 * rows * (-(-outputs // 32) * 32)
    product = floats(out[-num_bytes:]).view(rows, -1)[:, :outputs]
    activations = x.bfloat16().double()
    if precision != "bfloat16":
        q, scale = reference.quantize_rows(x)
        activations = (q.double() * scale[..., None].double()).flatten(-2)
    expected = (activations @ served_here(weight, precision, out[:-num_bytes]).T).float()
    largest = float(expected.abs().max())
    torch.testing.assert_close(product, expected, rtol=0.0, atol=3e-6 * largest)


def packed_arrays(config: ModelConfig, packed: PackedWeights) -> list[bytes]:
    """A model's weights in the order in which ``replay.cpp`` reads them."""
    library = open_native()
    hidden, inner = config.hidden_size, config.intermediate_size
    qkv = hidden + 2 * config.num_key_value_heads * config.head_dim
    matrix = functools.partial(matrix_at, library, packed.precision)
    weights: ModelWeights = packed.structure
    arrays = []
    for layer in range(config.num_hidden_layers):
        block = weights.layers[layer]
        arrays += [
            ctypes.string_at(block.attention_norm, 4 * hidden),
            matrix(block.qkv, qkv, hidden),
            matrix(block.output, hidden, hidden),
            ctypes.string_at(block.mlp_norm, 4 * hidden),
            matrix(block.gate_up, 2 * inner, hidden),
            matrix(block.down, hidden, inner),
        ]
    angles = 4 * config.max_position_embeddings * config.head_dim // 2
    head = HEAD_PRECISION[packed.precision]
    return [
        *arrays,
        ctypes.string_at(weights.final_norm, 4 * hidden),
        matrix_at(library, head, weights.embedding, config.vocab_size, hidden),
        ctypes.string_at(weights.cos, angles),
        ctypes.string_at(weights.sin, angles),
    ]


def matrix_at(
    library: reference.Library, precision: str, address: int, outputs: int, inputs: int
) -> bytes:
    return ctypes.string_at(address, packed_bytes(library, (outputs, inputs), precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_is_its_definition(program: Path, precision: str) -> None:
    config, library = native_config(), open_native()
    weights = toy_decoder(3, config).state_dict()
    packed = pack(config, weights, precision, library)
    shape = bytes(packed.shape(len(TEXT)))
    token_ids = bytes_of(torch.tensor(TEXT, dtype=torch.int32))
    content = emulated(program, "step", [shape, *packed_arrays(config, packed), token_ids])
    out = floats(content).view(len(TEXT), -1)[:, : config.vocab_size]
    expected = reference.logits(library, config, weights, precision, TEXT)
    assert float((out - expected).norm() / expected.norm()) < 0.02
    assert float((out - expected).abs().max()) < 0.05 * float(expected.abs().max())

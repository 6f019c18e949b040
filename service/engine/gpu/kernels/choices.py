"""Which kernel computes each part of a decode step, and with what tiles: plain data.

Shapes: B rows, K inner width, N outputs of a product.
"""

import dataclasses
from typing import Any, Literal, Self

from lm.model.config import ModelConfig

Form = Literal["sums", "tiles", "parts", "loop", "cublas"]
Part = Literal["qkv", "out", "gate_up", "down", "head"]
PARTS: tuple[Part, ...] = ("qkv", "out", "gate_up", "down", "head")
SHARED_BYTES = 160 * 1024
"""Of a multiprocessor's shared memory (163 KiB on sm_80, 227 on sm_90), for one program."""
PROGRAMS = 128
"""About as many as a card has multiprocessors."""
MAX_INPUTS = 48 * 1024
"""Rows times inner width that the registers of eight warps hold."""
MAX_SUM_ROWS = 2
"""Rows up to which sums are likely the fastest."""
MAX_TILE_INPUTS = 24576
"""Inputs that a program of four warps holds in float32 for a norm without spilling registers."""


@dataclasses.dataclass(frozen=True)
class ProductChoice:
    """A kernel for one product."""

    form: Form
    rows: int = 1
    """Of a program's tile (BM); unused by sums and cuBLAS."""
    outputs: int = 16
    """Of a program's tile (BN)."""
    inner: int = 64
    """Width of a turn (BK); of the loop alone."""
    warps: int = 4
    stages: int = 2


@dataclasses.dataclass(frozen=True)
class AttentionChoice:
    """How one row's keys are split and multiplied."""

    splits: int
    """A power of two; 1 needs no merge."""
    keys: int
    """Of a block (BT)."""
    tensor_cores: bool
    """The queries of a head padded to 16 rows of a tile, instead of elementwise products."""
    warps: int = 4
    stages: int = 2


@dataclasses.dataclass(frozen=True)
class Choices:
    """Of every part of a step of so many rows."""

    qkv: ProductChoice
    out: ProductChoice
    gate_up: ProductChoice
    down: ProductChoice
    head: ProductChoice
    attention: AttentionChoice

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of ``from_dict``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Raises ``KeyError`` or ``TypeError`` for data of another form."""
        products = {part: ProductChoice(**values[part]) for part in PARTS}
        return cls(**products, attention=AttentionChoice(**values["attention"]))


def product_shape(config: ModelConfig, part: Part) -> tuple[int, int]:
    """Outputs N and inner width K of a product; N of the gated one is the MLP's width."""
    width, inner = config.hidden_size, config.intermediate_size
    query = config.num_attention_heads * config.head_dim
    shared = config.num_key_value_heads * config.head_dim
    return {
        "qkv": (query + 2 * shared, width),
        "out": (width, query),
        "gate_up": (inner, width),
        "down": (width, inner),
        "head": (config.vocab_size, width),
    }[part]


def static_parts(inner: int, slices: int) -> tuple[int, int]:
    """The two powers of two that hold an inner width: 576 is 512 + 64.

    Each is cut into slices that are at least 16 wide, so that either may hold more than is there.
    """
    sizes = [16 * slices << doubled for doubled in range(16)]
    pairs = [(first, second) for first in sizes for second in sizes if first + second >= inner]
    return min(pairs, key=lambda pair: (sum(pair), pair[1]))


def two_tiles(inner: int) -> tuple[int, int]:
    """The two powers of two that hold an inner width: 576 is 512 + 64; the second may be 0."""
    first = 16
    while first * 2 <= inner:
        first *= 2
    rest = max(0, inner - first)
    return first, max(16, _power_of_two(rest)) if rest else 0


def default_choices(config: ModelConfig, rows: int, *, is_long: bool = False) -> Choices:
    """What was fastest on an H100 with SmolLM2-135M's shape, carried over to other shapes.

    One or two rows are sums, up to 32 two tiles where they fit in shared memory, else parts or a
    loop; cuBLAS beyond (bench/results/gpu_h100_2026-11-27.md).
    """
    products = {part: default_product(config, rows, part) for part in PARTS}
    return Choices(**products, attention=default_attention(config, rows, is_long=is_long))


def default_product(config: ModelConfig, rows: int, part: Part) -> ProductChoice:
    """Of one product of so many rows."""
    if rows <= MAX_SUM_ROWS:
        return sums(config, rows, part)
    if rows > 32:
        return ProductChoice("cublas")
    for fixed in (*tiles_choices(config, rows, part), *parts_choices(config, rows, part)):
        return fixed
    tile = max(16, _power_of_two(rows))
    outputs = 64 if part == "head" else 32
    return ProductChoice("loop", rows=tile, outputs=outputs, inner=64, stages=4)


def tiles_choices(config: ModelConfig, rows: int, part: Part) -> list[ProductChoice]:
    """Two tiles that fit into shared memory and registers, the likely best first."""
    tile = max(16, _power_of_two(rows))
    _, inner = product_shape(config, part)
    if rows > 32 or tile * inner > MAX_TILE_INPUTS:
        return []
    outputs = (64, 32) if part == "head" else (32, 16) if rows <= 8 else (16, 32)
    found = [ProductChoice("tiles", rows=tile, outputs=n, warps=4) for n in outputs]
    return [choice for choice in found if fits(config, part, choice)]


def parts_choices(config: ModelConfig, rows: int, part: Part) -> list[ProductChoice]:
    """Static parts that fit into shared memory, the likely best first."""
    tile = max(16, _power_of_two(rows))
    likely = parts_outputs(config, part)
    # A norm holds a tile of inputs in float32: more warps have more registers.
    _, inner = product_shape(config, part)
    warps = 8 if tile * inner > 16384 and (part not in ("out", "down") or inner >= 2048) else 4
    outputs = [likely >> halved for halved in range(4) if likely >> halved >= 8]
    found = [ProductChoice("parts", rows=tile, outputs=n, warps=warps) for n in outputs]
    return [choice for choice in found if fits(config, part, choice)]


def parts_outputs(config: ModelConfig, part: Part) -> int:
    """Outputs of a program in static parts: half a card's programs if 8, the narrowest, gives so.

    The weights of a head are many, so that its programs run after each other anyway.
    """
    outputs, _ = product_shape(config, part)
    tile = 8
    while tile < 64 and outputs // (2 * tile) >= PROGRAMS // 2 - 4:
        tile *= 2
    return tile if part == "head" else min(tile, 32)


def sums(config: ModelConfig, rows: int, part: Part) -> ProductChoice:
    """Sums whose programs are as many as the card is wide, a program's weights in registers."""
    outputs, inner = product_shape(config, part)
    elements = max(8192, 32768 // rows) if part == "head" else 8192
    tile = max(1, min(32, elements // _power_of_two(inner)))
    while tile > 1 and outputs // tile < PROGRAMS - 16:
        tile //= 2
    return ProductChoice("sums", outputs=tile, warps=4 if _power_of_two(inner) <= 4096 else 8)


def fits(config: ModelConfig, part: Part, choice: ProductChoice) -> bool:
    """Whether a product in static parts fits into shared memory and registers, in two bytes."""
    _, inner = product_shape(config, part)
    if choice.rows * inner > MAX_INPUTS:
        return False
    columns = choice.outputs * (2 if part == "gate_up" else 1)
    is_tiles = choice.form == "tiles"
    held = sum(two_tiles(inner) if is_tiles else static_parts(inner, choice.warps))
    return 2 * (choice.rows + columns) * held <= SHARED_BYTES


def default_attention(config: ModelConfig, rows: int, *, is_long: bool = False) -> AttentionChoice:
    """Splits so that rows, heads and splits together fill the card two to four times.

    A row or two have few splits: each program of the next product merges them for itself, which
    costs more than it gains until a sequence ``is_long``.
    """
    programs = rows * config.num_key_value_heads
    splits = 1
    limit = 8 if rows <= 2 else 16
    while splits < limit and programs * splits * 2 <= 4 * PROGRAMS:
        splits *= 2
    if rows <= 2 and not is_long:
        return AttentionChoice(2, keys=128, tensor_cores=True)
    if rows <= 16:
        return AttentionChoice(splits, keys=64, tensor_cores=True, warps=2)
    return AttentionChoice(splits, keys=128, tensor_cores=True)


def _power_of_two(number: int) -> int:
    """The least power of two that is not below a number."""
    return 1 << max(0, number - 1).bit_length()

"""Packs a decoder's weights as the kernels multiply by them, some rows at a time.

Queries, keys and values become one matrix, gate and up projection another whose rows alternate by
16, so that the kernel has both halves of SwiGLU at hand. An output is packed by itself, so weights
may come in any order and in pieces, and never lie in memory whole beside the packed ones.
"""

import ctypes
import dataclasses
import mmap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lm.model.config import ModelConfig
from lm.model.rotary import rotary_table
from service.engine.native.library import (
    FORMATS,
    LayerWeights,
    Library,
    ModelWeights,
    PackArguments,
    Shape,
)

LANES = 16
PANEL = 2 * LANES
LINE_BYTES = 64
HUGE_PAGE = 1 << 21
HEAD_PRECISION = {"bfloat16": "bfloat16", "int8": "int8", "int4": "int8"}
"""Embedding and head by the precision of the rest: 4 bits cost too much quality there."""


def why_unsupported(config: ModelConfig) -> str | None:
    """What of a config the kernels do not compute; ``None`` if they compute all of it."""
    if not config.is_llama:
        return "not a Llama-shaped decoder"
    if config.head_dim % 32 or config.head_dim > 256:
        return f"head_dim {config.head_dim} is no multiple of 32 up to 256"
    for name in ("hidden_size", "intermediate_size"):
        if getattr(config, name) % 32:
            return f"{name} {getattr(config, name)} is no multiple of 32"
    return None


@dataclasses.dataclass(frozen=True)
class PackedWeights:
    """Weights in the layout of the kernels, in memory of their own."""

    config: ModelConfig
    precision: str
    structure: ModelWeights
    """Points into ``memory``."""
    memory: tuple[object, ...]
    num_bytes: int

    def shape(self, max_rows: int) -> Shape:
        """Sizes as the kernels want them, for steps of so many rows."""
        config = self.config
        return Shape(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            vocab=config.vocab_size,
            max_rows=max_rows,
            max_positions=config.max_position_embeddings,
            format=FORMATS[self.precision],
            head_format=FORMATS[HEAD_PRECISION[self.precision]],
            epsilon=config.norm_eps,
        )


class _Place(NamedTuple):
    """Where the rows of a weight [outputs, inputs] go."""

    precision: str
    matrix: int
    """Address of the packed matrix, zero so far."""
    outputs: int
    inputs: int
    first_output: int = 0
    """Of the weight, in the matrix."""
    run: int = PANEL
    """Outputs that stay neighbours there."""
    stride: int = PANEL
    """From one run to the next."""


class Packer:
    """Takes a model's weights, then gives them packed.

    Raises ``ValueError`` for a config that the kernels do not compute.
    """

    def __init__(self, config: ModelConfig, precision: str, library: Library) -> None:
        if (reason := why_unsupported(config)) is not None:
            raise ValueError(f"no native kernels for this model: {reason}")
        self._config, self._precision, self._library = config, precision, library
        self._room = _huge_pages(_total_bytes(config, precision, library))
        self._memory = [self._room]
        self._places: dict[str, _Place] = {}
        self._vectors: dict[str, Tensor] = {}
        blocks = [self._block(f"model.layers.{layer}") for layer in range(config.num_hidden_layers)]
        self._layers = (LayerWeights * len(blocks))(*blocks)
        embedding = self._head("model.embed_tokens.weight")
        is_tied = config.tie_word_embeddings
        self._structure = ModelWeights(
            layers=ctypes.cast(self._layers, ctypes.POINTER(LayerWeights)),
            final_norm=self._norm("model.norm.weight"),
            embedding=embedding,
            head=embedding if is_tied else self._head("lm_head.weight"),
        )
        self._rows_to_come = {name: place.outputs for name, place in self._places.items()}
        self._rows_to_come |= {name: len(vector) for name, vector in self._vectors.items()}

    def add(self, name: str, first_row: int, rows: Tensor) -> None:
        """Pack rows [first_row, first_row + n) of a weight, float32 [n, inputs] or [n].

        They are not needed afterwards. Raises ``ValueError`` for what does not fit the config.
        """
        if name == "lm_head.weight" and self._config.tie_word_embeddings:
            return
        place, vector = self._places.get(name), self._vectors.get(name)
        outputs = len(vector) if vector is not None else place.outputs if place else 0
        width = (place.inputs,) if place else ()
        if first_row + len(rows) > outputs or rows.shape[1:] != width:
            raise ValueError(f"weights do not fit the config: {name} is of another shape or none")
        if vector is not None:
            vector[first_row : first_row + len(rows)] = rows
        elif place is not None:
            _pack_rows(self._library, place, first_row, rows)
        self._rows_to_come[name] -= len(rows)

    def finish(self) -> PackedWeights:
        """All that was added; raises ``ValueError`` if something is missing."""
        missing = [name for name, count in self._rows_to_come.items() if count]
        if missing:
            raise ValueError(f"weights do not fit the config: {missing[0]} is missing")
        config = self._config
        half = config.head_dim // 2
        tables = rotary_table(config.max_position_embeddings, config.head_dim, config.rope_theta)
        cos, sin = (table[:, :half].contiguous() for table in tables)
        self._structure.cos, self._structure.sin = cos.data_ptr(), sin.data_ptr()
        tensors = (*self._memory, *self._vectors.values(), cos, sin)
        return PackedWeights(
            config,
            self._precision,
            self._structure,
            (*tensors, self._layers),
            sum(tensor.nbytes for tensor in tensors),
        )

    def _block(self, name: str) -> LayerWeights:
        """Room for one block's weights."""
        config = self._config
        hidden, inner = config.hidden_size, config.intermediate_size
        kv = config.num_key_value_heads * config.head_dim
        attention, mlp = f"{name}.self_attn", f"{name}.mlp"
        qkv = self._matrix(hidden + 2 * kv, hidden)
        self._place(f"{attention}.q_proj", qkv, hidden, hidden)
        self._place(f"{attention}.k_proj", qkv, kv, hidden, first_output=hidden)
        self._place(f"{attention}.v_proj", qkv, kv, hidden, first_output=hidden + kv)
        output = self._matrix(hidden, hidden)
        self._place(f"{attention}.o_proj", output, hidden, hidden)
        gate_up = self._matrix(2 * inner, hidden)
        for part, half in enumerate(("gate", "up")):
            self._place(f"{mlp}.{half}_proj", gate_up, inner, hidden, LANES * part, run=LANES)
        down = self._matrix(hidden, inner)
        self._place(f"{mlp}.down_proj", down, hidden, inner)
        return LayerWeights(
            attention_norm=self._norm(f"{name}.input_layernorm.weight"),
            qkv=qkv,
            output=output,
            mlp_norm=self._norm(f"{name}.post_attention_layernorm.weight"),
            gate_up=gate_up,
            down=down,
        )

    def _head(self, name: str) -> int:
        """Room for the embedding or the head."""
        shape = (self._config.vocab_size, self._config.hidden_size)
        precision = HEAD_PRECISION[self._precision]
        matrix = self._matrix(*shape, precision)
        self._places[name] = _Place(precision, matrix, *shape)
        return matrix

    def _matrix(self, outputs: int, inputs: int, precision: str | None = None) -> int:
        """Address of room for a packed matrix."""
        size = packed_bytes(self._library, (outputs, inputs), precision or self._precision)
        target, self._room = self._room[:size], self._room[size:]
        return target.data_ptr()

    def _norm(self, name: str) -> int:
        """Address of room for a norm's weight."""
        self._vectors[name] = torch.empty(self._config.hidden_size)
        return self._vectors[name].data_ptr()

    def _place(
        self,
        name: str,
        matrix: int,
        outputs: int,
        inputs: int,
        first_output: int = 0,
        run: int = PANEL,
    ) -> None:
        self._places[f"{name}.weight"] = _Place(
            self._precision, matrix, outputs, inputs, first_output, run
        )


def packed_bytes(library: Library, shape: Sequence[int], precision: str) -> int:
    """Size of a packed matrix [N, K], in whole lines of the cache."""
    size: int = library.functions.nestling_packed_bytes(FORMATS[precision], *shape)
    return -(-size // LINE_BYTES) * LINE_BYTES


def pack_matrix(library: Library, weight: Tensor, precision: str) -> Tensor:
    """Bytes of a matrix [N, K], packed by itself."""
    packed = torch.zeros(packed_bytes(library, weight.shape, precision), dtype=torch.uint8)
    place = _Place(precision, packed.data_ptr(), *weight.shape)
    _pack_rows(library, place, 0, weight)
    return packed


def pack(
    config: ModelConfig, weights: Mapping[str, Tensor], precision: str, library: Library
) -> PackedWeights:
    """Pack weights by their published names, which are not needed any more afterwards.

    Raises ``ValueError`` for a config that the kernels do not compute, or weights of another.
    """
    packer = Packer(config, precision, library)
    for name, weight in weights.items():
        packer.add(name, 0, weight)
    return packer.finish()


def _pack_rows(library: Library, place: _Place, first_row: int, rows: Tensor) -> None:
    source = rows.detach().to(torch.float32).contiguous()
    arguments = PackArguments(
        weights=source.data_ptr(),
        count=len(source),
        inputs=place.inputs,
        first_row=first_row,
        first_output=place.first_output,
        run=place.run,
        stride=place.stride,
        matrix=place.matrix,
    )
    # As many threads as PyTorch's work here may have: few where a load gives way to a service.
    library.pack(place.precision, arguments, torch.get_num_threads())


def _total_bytes(config: ModelConfig, precision: str, library: Library) -> int:
    """Size of all packed matrices."""
    hidden, inner = config.hidden_size, config.intermediate_size
    qkv = hidden + 2 * config.num_key_value_heads * config.head_dim
    block = ((qkv, hidden), (hidden, hidden), (2 * inner, hidden), (hidden, inner))
    heads = 1 if config.tie_word_embeddings else 2
    head = packed_bytes(library, (config.vocab_size, hidden), HEAD_PRECISION[precision])
    blocks = sum(packed_bytes(library, shape, precision) for shape in block)
    return config.num_hidden_layers * blocks + heads * head


def _huge_pages(num_bytes: int) -> Tensor:
    """Zero bytes, in huge pages where the kernel gives them: a step reads all of them."""
    pages = mmap.mmap(-1, num_bytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    room = torch.frombuffer(pages, dtype=torch.uint8)
    start = -room.data_ptr() % HUGE_PAGE
    return room[start : start + num_bytes]

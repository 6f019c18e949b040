"""Packs a decoder's weights as the kernels multiply by them.

Queries, keys and values become one matrix, gate and up projection another whose rows alternate by
16, so that the kernel has both halves of SwiGLU at hand.
"""

import ctypes
import dataclasses
import mmap
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lm.config import ModelConfig
from lm.rotary import rotary_table
from service.engine.native.library import FORMATS, LayerWeights, Library, ModelWeights, Shape

LANES = 16
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


class _Packer:
    """Packs matrices one after the other into one stretch of memory."""

    def __init__(self, library: Library, num_bytes: int) -> None:
        self._library = library
        self._room = _huge_pages(num_bytes)
        self.memory: list[object] = [self._room]
        self.num_bytes = num_bytes

    def matrix(self, weight: Tensor, precision: str) -> int:
        """Address of a packed matrix [N, K]."""
        size = packed_bytes(self._library, weight.shape, precision)
        target, self._room = self._room[:size], self._room[size:]
        pack_matrix(self._library, weight, precision, target)
        return target.data_ptr()

    def vector(self, weight: Tensor) -> int:
        """Address of a float32 copy."""
        copy = weight.detach().to(torch.float32, copy=True).contiguous()
        self.memory.append(copy)
        self.num_bytes += copy.nbytes
        return copy.data_ptr()


def packed_bytes(library: Library, shape: Sequence[int], precision: str) -> int:
    """Size of a packed matrix [N, K], in whole lines of the cache."""
    size: int = library.functions.nestling_packed_bytes(FORMATS[precision], *shape)
    return -(-size // LINE_BYTES) * LINE_BYTES


def pack_matrix(library: Library, weight: Tensor, precision: str, out: Tensor) -> None:
    """Pack a matrix [N, K] into bytes."""
    source = weight.detach().to(torch.float32).contiguous()
    library.functions.nestling_pack(
        FORMATS[precision], source.data_ptr(), *source.shape, out.data_ptr()
    )


def pack(
    config: ModelConfig, weights: Mapping[str, Tensor], precision: str, library: Library
) -> PackedWeights:
    """Pack weights by their published names, which are not needed any more afterwards.

    Raises ``ValueError`` for a config that the kernels do not compute.
    """
    if (reason := why_unsupported(config)) is not None:
        raise ValueError(f"no native kernels for this model: {reason}")
    packer = _Packer(library, _total_bytes(config, precision, library))
    blocks = [
        _pack_block(packer, weights, f"model.layers.{layer}", precision)
        for layer in range(config.num_hidden_layers)
    ]
    layers = (LayerWeights * len(blocks))(*blocks)
    head_precision = HEAD_PRECISION[precision]
    embedding = packer.matrix(weights["model.embed_tokens.weight"], head_precision)
    cos, sin = rotary_table(config.max_position_embeddings, config.head_dim, config.rope_theta)
    half = config.head_dim // 2
    structure = ModelWeights(
        layers=ctypes.cast(layers, ctypes.POINTER(LayerWeights)),
        final_norm=packer.vector(weights["model.norm.weight"]),
        embedding=embedding,
        head=embedding
        if config.tie_word_embeddings
        else packer.matrix(weights["lm_head.weight"], head_precision),
        cos=packer.vector(cos[:, :half]),
        sin=packer.vector(sin[:, :half]),
    )
    return PackedWeights(config, precision, structure, (*packer.memory, layers), packer.num_bytes)


def _total_bytes(config: ModelConfig, precision: str, library: Library) -> int:
    """Size of all packed matrices."""
    hidden, inner = config.hidden_size, config.intermediate_size
    qkv = hidden + 2 * config.num_key_value_heads * config.head_dim
    block = ((qkv, hidden), (hidden, hidden), (2 * inner, hidden), (hidden, inner))
    heads = 1 if config.tie_word_embeddings else 2
    head = packed_bytes(library, (config.vocab_size, hidden), HEAD_PRECISION[precision])
    blocks = sum(packed_bytes(library, shape, precision) for shape in block)
    return config.num_hidden_layers * blocks + heads * head


def _pack_block(
    packer: _Packer, weights: Mapping[str, Tensor], block: str, precision: str
) -> LayerWeights:
    qkv = [weights[f"{block}.self_attn.{name}_proj.weight"] for name in "qkv"]
    gate_up = torch.stack([weights[f"{block}.mlp.{name}_proj.weight"] for name in ("gate", "up")])
    alternating = gate_up.view(2, -1, LANES, gate_up.shape[-1]).transpose(0, 1)
    return LayerWeights(
        attention_norm=packer.vector(weights[f"{block}.input_layernorm.weight"]),
        qkv=packer.matrix(torch.cat(qkv), precision),
        output=packer.matrix(weights[f"{block}.self_attn.o_proj.weight"], precision),
        mlp_norm=packer.vector(weights[f"{block}.post_attention_layernorm.weight"]),
        gate_up=packer.matrix(alternating.flatten(0, 2), precision),
        down=packer.matrix(weights[f"{block}.mlp.down_proj.weight"], precision),
    )


def _huge_pages(num_bytes: int) -> Tensor:
    """Uninitialised bytes, in huge pages where the kernel gives them: a step reads all of them."""
    pages = mmap.mmap(-1, num_bytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    room = torch.frombuffer(pages, dtype=torch.uint8)
    start = -room.data_ptr() % HUGE_PAGE
    return room[start : start + num_bytes]

"""What the kernels compute, said slowly in PyTorch: the definition that tests hold them to.

Quantized products are sums of integers, which float64 holds exactly here.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.model.config import ModelConfig
from lm.model.rotary import rotary_table, rotate
from service.engine.native.cache import PANEL
from service.engine.native.library import Library
from service.engine.native.packing import HEAD_PRECISION, pack_matrix

INT4_GROUP = 32


def scale_group(width: int) -> int:
    """Inputs that share a scale of activations."""
    return 64 if width % 64 == 0 else 32


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 [M, K] → integers [M, groups, group] in [-127, 127] and scales [M, groups]."""
    grouped = x.view(len(x), -1, scale_group(x.shape[-1]))
    peak = grouped.abs().amax(-1)
    inverse = torch.where(peak > 1e-30, 127.0 / peak, 0.0)
    return (grouped * inverse[..., None]).round(), peak / 127.0


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 [N, K] → integers [N, K] in [-127, 127] and a scale for each output [N]."""
    peak = weight.abs().amax(-1)
    inverse = torch.where(peak > 1e-30, 127.0 / peak, 0.0)
    return (weight * inverse[:, None]).round(), peak / 127.0


def unpack_int4(packed: Tensor, outputs: int, inputs: int) -> Tensor:
    """Float64 [N, K] of packed bytes; see ``int4.hpp``."""
    blocks = packed.view(-1, inputs // INT4_GROUP, 5 * 128)
    lines = blocks[..., :512].reshape(*blocks.shape[:2], 4, 2, 16, 4)  # line, half, lane, byte
    nibbles = torch.stack((lines & 15, lines >> 4), dim=3)  # ..., line, which, half, lane, byte
    q = nibbles.permute(0, 4, 5, 1, 2, 3, 6).reshape(len(blocks) * PANEL, -1, INT4_GROUP)
    ranges = blocks[..., 512:].view(torch.bfloat16).double().view(*blocks.shape[:2], 2, PANEL)
    scale, least = ranges.permute(2, 0, 3, 1).reshape(2, len(blocks) * PANEL, -1, 1)
    weight: Tensor = (q.double() * scale + least).flatten(1)
    return weight[:outputs]


def served_weight(library: Library, weight: Tensor, precision: str) -> Tensor:
    """Float64 [N, K]: what a packed matrix stands for."""
    weight = weight.float()
    if precision == "bfloat16":
        return weight.bfloat16().double()
    if precision == "int8":
        q, scale = quantize_int8(weight)
        return q.double() * scale[:, None].double()
    return unpack_int4(pack_matrix(library, weight, precision), *weight.shape)


def linear(library: Library, x: Tensor, weight: Tensor, precision: str) -> Tensor:
    """Float32 [M, K] times [N, K]: activations in bfloat16 or 8 bits, sums in full."""
    if precision == "bfloat16":
        rows = x.bfloat16().double()
    else:
        q, scale = quantize_rows(x)
        rows = (q.double() * scale[..., None].double()).flatten(-2)
    product: Tensor = (rows @ served_weight(library, weight, precision).T).float()
    return product


def logits(
    library: Library,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    precision: str,
    token_ids: Sequence[int],
) -> Tensor:
    """Float32 [T, V] after each token of a text."""
    head_precision = HEAD_PRECISION[precision]
    embedding = served_weight(library, weights["model.embed_tokens.weight"], head_precision)
    x = embedding[torch.tensor(token_ids)].float()
    for layer in range(config.num_hidden_layers):
        x = _block(library, config, block_weights(weights, layer), precision, x)
    x = F.rms_norm(x, x.shape[-1:], weights["model.norm.weight"].float(), config.norm_eps)
    head = "model.embed_tokens" if config.tie_word_embeddings else "lm_head"
    return linear(library, x, weights[f"{head}.weight"], head_precision)


def block_weights(weights: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    """One block's weights by their names within it."""
    prefix = f"model.layers.{layer}."
    return {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }


def _block(
    library: Library, config: ModelConfig, weights: Mapping[str, Tensor], precision: str, x: Tensor
) -> Tensor:
    def project(y: Tensor, name: str) -> Tensor:
        return linear(library, y, weights[f"{name}_proj.weight"], precision)

    def norm(y: Tensor, name: str) -> Tensor:
        weight = weights[f"{name}_layernorm.weight"].float()
        return F.rms_norm(y, y.shape[-1:], weight, config.norm_eps)

    y = norm(x, "input")
    query, key, value = (project(y, f"self_attn.{name}") for name in "qkv")
    x = x + project(_attention(config, query, key, value), "self_attn.o")
    y = norm(x, "post_attention")
    return x + project(F.silu(project(y, "mlp.gate")) * project(y, "mlp.up"), "mlp.down")


def _attention(config: ModelConfig, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal, over keys, values and rotated queries in bfloat16, weights too; [T, Hq · D]."""
    tokens, width = query.shape[0], config.head_dim
    tables = rotary_table(config.max_position_embeddings, width, config.rope_theta)
    cos, sin = (table[:tokens] for table in tables)
    query, key, value = (x.view(tokens, -1, width).transpose(0, 1) for x in (query, key, value))
    query, key = (rotate(x, cos, sin).bfloat16().double() for x in (query, key))
    group = config.num_attention_heads // config.num_key_value_heads
    key, value = (x.repeat_interleave(group, 0) for x in (key, value.bfloat16().double()))
    hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    scores = (query @ key.mT / width**0.5).masked_fill(hidden, -torch.inf)
    shares = (scores - scores.amax(-1, keepdim=True)).exp()
    mixed: Tensor = shares.bfloat16().double() @ value / shares.sum(-1, keepdim=True)
    return mixed.transpose(0, 1).reshape(tokens, -1).float()

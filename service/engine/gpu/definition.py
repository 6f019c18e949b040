"""What a model says by definition, over the buffers of a step: ``scaled_dot_product_attention``.

The fused steps are compared with it when a model is loaded.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.model.config import ModelConfig
from service.engine.gpu.tensors import DecoderWeights


def plain_logits(config: ModelConfig, weights: DecoderWeights, token_ids: Tensor) -> Tensor:
    """Logits [T, V] after each token of a text int64 [T], in the dtype of the weights."""
    x = weights.embedding[token_ids]
    cos, sin = (table[: len(token_ids)].to(x.dtype) for table in (weights.cos, weights.sin))
    heads = [config.num_attention_heads, *(config.num_key_value_heads,) * 2]
    for layer in weights.layers:
        normed = F.rms_norm(x, (x.shape[-1],), layer.attention_norm, config.norm_eps)
        joined = F.linear(normed, layer.qkv).view(len(x), -1, config.head_dim)
        query, key, value = (
            part.transpose(0, 1)[None] for part in torch.split(joined, heads, dim=1)
        )
        mixed = F.scaled_dot_product_attention(
            _rotated(query, cos, sin),
            _rotated(key, cos, sin),
            value,
            is_causal=True,
            enable_gqa=heads[0] != heads[1],
        )
        x = x + F.linear(mixed[0].transpose(0, 1).flatten(1), layer.out)
        normed = F.rms_norm(x, (x.shape[-1],), layer.mlp_norm, config.norm_eps)
        gate, up = F.linear(normed, layer.gate_up).chunk(2, dim=-1)
        x = x + F.linear(F.silu(gate) * up, layer.down)
    normed = F.rms_norm(x, (x.shape[-1],), weights.norm, config.norm_eps)
    return F.linear(normed, weights.head)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads [1, H, T, D] by half tables [T, D / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

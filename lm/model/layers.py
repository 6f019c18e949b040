"""The blocks of the decoder: norm, self-attention projections, MLP, residual block.

Submodule names are the published Llama names, so released weights load without a renaming table.
Shapes: B batch, T tokens, C hidden width, Hq/Hkv query and key/value heads, D head width.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.model.attention import Attend
from lm.model.config import ModelConfig
from lm.model.rotary import rotate

Rotation = tuple[Tensor, Tensor]


def project(x: Tensor, *projections: nn.Linear) -> Iterable[Tensor]:
    """Each projection of x [..., C] to its own width; in compiled code one product makes all.

    Stacking the weights costs nothing there: it is part of the pass that casts them.
    """
    if not torch.compiler.is_compiling():
        return [projection(x) for projection in projections]
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    weight = torch.cat([projection.weight.to(dtype) for projection in projections])
    biases = [
        projection.bias.to(dtype) for projection in projections if projection.bias is not None
    ]
    widths = [projection.out_features for projection in projections]
    return torch.split(F.linear(x, weight, torch.cat(biases) if biases else None), widths, dim=-1)


class SelfAttention(nn.Module):
    """Project to heads, rotate if positions are rotary, attend, project back."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        key_value = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.k_proj = nn.Linear(config.hidden_size, key_value, bias=config.bias)
        self.v_proj = nn.Linear(config.hidden_size, key_value, bias=config.bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)

    def forward(self, x: Tensor, rotation: Rotation | None, attend: Attend) -> Tensor:
        """Map x [B, T, C] to [B, T, C]; rotation is cos and sin [B or 1, 1, T, D]."""
        query, key, value = (
            torch.unflatten(projected, -1, (-1, self.head_dim)).transpose(1, 2)  # [B, H, T, D]
            for projected in project(x, self.q_proj, self.k_proj, self.v_proj)
        )
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        mixed = attend(self.layer, query, key, value)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(-2))
        return out


class SwiGLU(nn.Module):
    """Gated MLP: down(silu(gate(x)) · up(x)) (arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner = config.intermediate_size
        self.gate_proj = nn.Linear(config.hidden_size, inner, bias=config.bias)
        self.up_proj = nn.Linear(config.hidden_size, inner, bias=config.bias)
        self.down_proj = nn.Linear(inner, config.hidden_size, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, T, C] to [B, T, C]."""
        gate, up = project(x, self.gate_proj, self.up_proj)
        out: Tensor = self.down_proj(F.silu(gate) * up)
        return out


class GeluMLP(nn.Module):
    """Plain MLP: down(gelu(up(x))), GELU in its tanh form unless the config wants the exact one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)
        self.approximate = "none" if config.mlp == "gelu_erf" else "tanh"

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, T, C] to [B, T, C]."""
        out: Tensor = self.down_proj(F.gelu(self.up_proj(x), approximate=self.approximate))
        return out


def make_norm(config: ModelConfig) -> nn.Module:
    """The configured normalisation over the last dimension."""
    if config.norm == "layernorm":
        return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.bias)
    return nn.RMSNorm(config.hidden_size, eps=config.norm_eps)


class Block(nn.Module):
    """Pre-norm residual block: x + s · attention(norm(x)), then x + s · mlp(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.residual_scale = config.residual_scale
        self.input_layernorm = make_norm(config)
        self.self_attn = SelfAttention(config, layer)
        self.post_attention_layernorm = make_norm(config)
        self.mlp = SwiGLU(config) if config.mlp == "swiglu" else GeluMLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rotation: Rotation | None, attend: Attend) -> Tensor:
        """Map x [B, T, C] to [B, T, C]."""
        mixed = self.dropout(self.self_attn(self.input_layernorm(x), rotation, attend))
        x = x + (mixed if self.residual_scale == 1.0 else mixed * self.residual_scale)
        mapped: Tensor = self.dropout(self.mlp(self.post_attention_layernorm(x)))
        return x + (mapped if self.residual_scale == 1.0 else mapped * self.residual_scale)

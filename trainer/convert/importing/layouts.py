"""How other decoders' weights lie, turned into ``nn.Linear`` projections that stand apart.

GPT-2's ``Conv1D`` keeps its matrices [in, out], and one fused projection holds query, key and
value stacked in this order, as ``nn.MultiheadAttention``'s does.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lm.model.config import ModelConfig

_QKV = "self_attn.qkv_proj"
_CONV1D = tuple(
    f"{part}.weight" for part in (_QKV, "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
)


def as_linear(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Weights by our names, each matrix [out, in], fused projections taken apart.

    Raises ``ValueError`` naming a fused projection whose rows are not the config's.
    """
    is_conv1d = _is_conv1d(weights, config)
    return {
        name: part
        for fused, weight in weights.items()
        for name, part in _apart(
            fused, weight.T if is_conv1d and fused.endswith(_CONV1D) else weight, config
        )
    }


def _is_conv1d(weights: Mapping[str, Tensor], config: ModelConfig) -> bool:
    """Only the fused projection's shape tells; a block's other matrices may be square."""
    fused = (config.hidden_size, sum(_qkv_rows(config)))
    return any(
        weight.shape == fused for name, weight in weights.items() if name.endswith(f"{_QKV}.weight")
    )


def _apart(name: str, tensor: Tensor, config: ModelConfig) -> Iterable[tuple[str, Tensor]]:
    """The weights that a fused one holds: query, key, value in this order; any other as it is."""
    if _QKV not in name:
        return [(name, tensor)]
    rows = _qkv_rows(config)
    if tensor.shape[:1] != (sum(rows),):
        raise ValueError(
            f"weights: {name} has shape {list(tensor.shape)}, the config wants {sum(rows)} rows"
        )
    parts = zip("qkv", torch.split(tensor, rows), strict=True)
    return [(name.replace("qkv_proj", f"{letter}_proj"), part) for letter, part in parts]


def _qkv_rows(config: ModelConfig) -> list[int]:
    key_value = config.num_key_value_heads * config.head_dim
    return [config.hidden_size, key_value, key_value]

"""Names and layouts of other decoders' weights, turned into ours.

A name is read as: wrappers, then either a block's number and the part in it or a part outside the
blocks, then ``weight`` or ``bias``. What stands in front (``model.``, ``transformer.``, a Lightning
module's attribute) does not matter as long as no two names mean the same weight.
"""

import difflib
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lm.config import ModelConfig

_WRAPPERS = {"_orig_mod", "module", "_checkpoint_wrapped_module"}
"""Put into names by ``torch.compile``, ``DistributedDataParallel`` and activation checkpointing."""

_OUTSIDE = {
    # ours            Llama          GPT-2   torch.nn           Meta's Llama
    "embed_tokens": ("embed_tokens", "wte", "token_embedding", "tok_embeddings"),
    "embed_positions": ("embed_positions", "wpe", "position_embedding"),
    "norm": ("norm", "ln_f", "final_norm"),
    "lm_head": ("lm_head", "head", "output"),
}
_QKV = "self_attn.qkv_proj"
_IN_BLOCK = {
    # ours                    Llama             GPT-2         torch.nn        Meta's Llama
    "input_layernorm": ("input_layernorm", "ln_1", "norm1", "attention_norm"),
    "post_attention_layernorm": ("post_attention_layernorm", "ln_2", "norm2", "ffn_norm"),
    _QKV: (_QKV, "attn.c_attn", "self_attn.in_proj"),
    "self_attn.q_proj": ("self_attn.q_proj", "attn.q_proj", "attention.wq"),
    "self_attn.k_proj": ("self_attn.k_proj", "attn.k_proj", "attention.wk"),
    "self_attn.v_proj": ("self_attn.v_proj", "attn.v_proj", "attention.wv"),
    "self_attn.o_proj": (
        "self_attn.o_proj",
        "attn.c_proj",
        "self_attn.out_proj",
        "attn.o_proj",
        "attention.wo",
    ),
    "mlp.gate_proj": ("mlp.gate_proj", "feed_forward.w1"),
    "mlp.up_proj": ("mlp.up_proj", "mlp.c_fc", "linear1", "feed_forward.w3"),
    "mlp.down_proj": ("mlp.down_proj", "mlp.c_proj", "linear2", "feed_forward.w2"),
}
_CONV1D_PARTS = (_QKV, "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")

_PARTS = {
    theirs: ours
    for table in (_OUTSIDE, _IN_BLOCK)
    for ours, spellings in table.items()
    for theirs in spellings
}
_BLOCK_NAME = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)[._](weight|bias)$")
_OUTSIDE_NAME = re.compile(r"(?:^|\.)(\w+)\.(weight|bias)$")

_BUFFER = re.compile(
    r"(^|\.)(attn\.(bias|masked_bias|mask|tril)|causal_mask|tril|position_ids"
    r"|inv_freq|freqs_cis|(cos|sin)_cached)$"
)
"""Causal masks, position numbers and rotary tables: the config implies them."""

NUM_NAMED = 3
"""How many unknown names an error lists."""


def is_buffer(name: str) -> bool:
    """Whether the config implies this entry of a state dict."""
    return _BUFFER.search(name) is not None


def our_weights(theirs: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Weights by our names, in the layout of ``nn.Linear``, fused projections taken apart.

    Raises ``ValueError`` for names that are not known, with the nearest known ones, and for two
    that mean the same weight.
    """
    named = _named(theirs)
    weights = {ours: theirs[name] for ours, name in named.items()}
    _transpose_conv1d(weights, config)
    return {
        name: weight
        for fused, tensor in weights.items()
        for name, weight in _apart(fused, tensor, config)
    }


def _named(names: Iterable[str]) -> dict[str, str]:
    """Their names by ours."""
    named: dict[str, str] = {}
    unknown = []
    for theirs in names:
        ours = _our_name(theirs)
        if ours is None:
            unknown.append(theirs)
        elif ours in named:
            raise ValueError(f"{named[ours]} and {theirs} would both be {ours}")
        else:
            named[ours] = theirs
    if unknown:
        listed = ", ".join(map(_with_nearest, unknown[:NUM_NAMED]))
        more = f" and {len(unknown) - NUM_NAMED} more" if len(unknown) > NUM_NAMED else ""
        raise ValueError(f"weights with names that are not known: {listed}{more}")
    return named


def _our_name(theirs: str) -> str | None:
    name = ".".join(part for part in theirs.split(".") if part not in _WRAPPERS)
    if match := _BLOCK_NAME.search(name):
        number, part, leaf = match.groups()
        if (ours := _PARTS.get(part)) in _IN_BLOCK:
            return f"model.layers.{number}.{ours}.{leaf}"
    elif match := _OUTSIDE_NAME.search(name):
        part, leaf = match.groups()
        if (ours := _PARTS.get(part)) in _OUTSIDE:
            return f"{ours}.{leaf}" if ours == "lm_head" else f"model.{ours}.{leaf}"
    return None


def _with_nearest(name: str) -> str:
    """The name and the known one that looks most like it, for an error."""
    match = _BLOCK_NAME.search(name)
    part = match[2] if match else name.rpartition(".")[0]
    near = difflib.get_close_matches(part, _PARTS, n=1, cutoff=0.0)
    return f"{name!r} (nearest: {near[0]!r})"


def _transpose_conv1d(weights: dict[str, Tensor], config: ModelConfig) -> None:
    """Turn GPT-2's ``Conv1D`` matrices [in, out] into ``nn.Linear``'s [out, in].

    Only the fused projection's shape tells the two apart; a block's other matrices may be square.
    """
    fused = [weights[name] for name in weights if name.endswith(f"{_QKV}.weight")]
    if not fused or fused[0].shape != (config.hidden_size, sum(_qkv_rows(config))):
        return
    for name, weight in weights.items():
        if name.endswith(tuple(f"{part}.weight" for part in _CONV1D_PARTS)):
            weights[name] = weight.T


def _apart(name: str, tensor: Tensor, config: ModelConfig) -> Iterable[tuple[str, Tensor]]:
    """The weights that a fused one holds: query, key, value in this order; any other as it is."""
    rows = _qkv_rows(config)
    if _QKV not in name or tensor.shape[0] != sum(rows):
        return [(name, tensor)]
    parts = zip("qkv", torch.split(tensor, rows), strict=True)
    return [(name.replace("qkv_proj", f"{letter}_proj"), part) for letter, part in parts]


def _qkv_rows(config: ModelConfig) -> list[int]:
    key_value = config.num_key_value_heads * config.head_dim
    return [config.hidden_size, key_value, key_value]

"""Names of other decoders' weights, turned into ours; how the tensors lie is ``layouts``.

A name is read as: wrappers, then either a block's number and the part in it or a part outside the
blocks, then ``weight`` or ``bias``. What stands in front (``model.``, ``transformer.``, a Lightning
module's attribute) does not matter as long as no two names mean the same weight.

Of the recipes' sources two state their names: ``smollm2-135m``'s are transformers' Llama's, and
``smollm2-135m-learned`` has ``wte`` and ``wpe``. The others only imply theirs (a Llama with grouped
heads, a pre-norm GPT), so every usual spelling is read, whatever the recipe.
"""

import difflib
import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_WRAPPERS = {"_orig_mod", "module", "_checkpoint_wrapped_module"}
"""Put into names by ``torch.compile``, ``DistributedDataParallel`` and activation checkpointing."""

_OUTSIDE = {
    # ours: Llama's, GPT-2's, hand-written ones around torch.nn, Meta's Llama's
    "embed_tokens": ("embed_tokens", "wte", "token_embedding", "tok_emb", "tok_embeddings"),
    "embed_positions": ("embed_positions", "wpe", "position_embedding", "pos_emb"),
    "norm": ("norm", "ln_f", "final_norm"),
    "lm_head": ("lm_head", "head", "output"),
}
_NORMS = {
    "input_layernorm": ("input_layernorm", "ln_1", "norm1", "ln1", "attention_norm"),
    "post_attention_layernorm": ("post_attention_layernorm", "ln_2", "norm2", "ln2", "ffn_norm"),
}
_ATTENTION = {
    "qkv_proj": ("qkv_proj", "c_attn", "in_proj", "qkv"),
    "q_proj": ("q_proj", "query", "wq"),
    "k_proj": ("k_proj", "key", "wk"),
    "v_proj": ("v_proj", "value", "wv"),
    "o_proj": ("o_proj", "c_proj", "out_proj", "proj", "wo"),
}
_MLP = {
    "gate_proj": ("gate_proj", "w1"),
    "up_proj": ("up_proj", "c_fc", "fc1", "0", "w3"),
    "down_proj": ("down_proj", "c_proj", "fc2", "2", "w2"),
}
_ENCODER_LAYER = {"mlp.up_proj": ("linear1",), "mlp.down_proj": ("linear2",)}


def _in(ours: str, modules: Iterable[str], parts: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Our names by theirs, of the parts of a module that goes by several names itself."""
    return {
        f"{module}.{theirs}": f"{ours}.{part}"
        for module in modules
        for part, spellings in parts.items()
        for theirs in spellings
    }


def _by_theirs(table: Mapping[str, Iterable[str]]) -> dict[str, str]:
    return {theirs: ours for ours, spellings in table.items() for theirs in spellings}


_OUTSIDE_PARTS = _by_theirs(_OUTSIDE)
_BLOCK_PARTS = {
    **_by_theirs(_NORMS),
    **_in("self_attn", ("self_attn", "attn", "attention"), _ATTENTION),
    **_in("mlp", ("mlp", "ffn", "feed_forward"), _MLP),
    **_by_theirs(_ENCODER_LAYER),
}

_BLOCK_NAME = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)[._](weight|bias)$")
_OUTSIDE_NAME = re.compile(r"(?:^|\.)(\w+)\.(weight|bias)$")

_BUFFER = re.compile(
    r"(^|\.)((attn|attention)\.(bias|masked_bias|mask)|causal_mask|tril|position_ids"
    r"|inv_freq|rope\.freqs|freqs_cis|(cos|sin)_cached)$"
)
"""Causal masks, position numbers and rotary tables: the config implies them."""

NUM_NAMED = 3
"""How many unknown names an error lists."""


def is_buffer(name: str) -> bool:
    """Whether the config implies this entry of a state dict."""
    return _BUFFER.search(name) is not None


def by_our_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors by our names; a fused projection is ``qkv_proj``.

    Raises ``ValueError`` for names that are not known, with the nearest known ones, and for two
    that mean the same weight.
    """
    named: dict[str, str] = {}
    unknown = []
    for theirs in weights:
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
    return {ours: weights[theirs] for ours, theirs in named.items()}


def _our_name(theirs: str) -> str | None:
    name = ".".join(part for part in theirs.split(".") if part not in _WRAPPERS)
    if match := _BLOCK_NAME.search(name):
        number, part, leaf = match.groups()
        if (ours := _BLOCK_PARTS.get(part)) is not None:
            return f"model.layers.{number}.{ours}.{leaf}"
    elif match := _OUTSIDE_NAME.search(name):
        part, leaf = match.groups()
        if (ours := _OUTSIDE_PARTS.get(part)) is not None:
            return f"{ours}.{leaf}" if ours == "lm_head" else f"model.{ours}.{leaf}"
    return None


def _with_nearest(name: str) -> str:
    """The name and the known one that looks most like it, for an error."""
    match = _BLOCK_NAME.search(name)
    part = match[2] if match else name.rpartition(".")[0]
    known = _BLOCK_PARTS if match else _OUTSIDE_PARTS
    near = difflib.get_close_matches(part, known, n=1, cutoff=0.0)
    return f"{name!r} (nearest: {near[0]!r})"

"""What a GGUF file says beside its weights: what is not understood of it is refused by name.

transformers' reader passes over keys and tensors that it does not know, rotary scaling among
them. Source of the names: llama.cpp's ``gguf`` package, ``gguf.constants``.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, normalizers, processors

from lm.model.config import ModelConfig

_UNDERSTOOD = {
    *("context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"),
    "rope.freq_base",
}
_REQUIRED = ("context_length", "attention.layer_norm_rms_epsilon")
"""What llama.cpp requires; transformers would make it up."""
_WITHOUT_EFFECT: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "rope.scaling.type": ("none",),
        "rope.scaling.factor": (1.0,),
        "rope.scale_linear": (1.0,),
        "rope.scaling.attn_factor": (1.0,),
        "attention.causal": (True,),
        "attention.sliding_window": (0,),
        "expert_count": (0,),
        "expert_used_count": (0,),
        "logit_scale": (1.0,),
        "residual_scale": (1.0,),
        "embedding_scale": (1.0,),
    }
)
"""Keys that change nothing at these values."""
_HEAD_WIDTHS = ("rope.dimension_count", "attention.key_length", "attention.value_length")
ENDS = ("eos", "eot", "eom")
"""The format's places for end tokens: of the text, of a turn, of a message."""
_KEPT = {
    "padding_token_id": "pad_token",
    "unknown_token_id": "unk_token",
    "seperator_token_id": "sep_token",  # their spelling
    "mask_token_id": "mask_token",
}
SAMPLING: Mapping[str, str] = MappingProxyType(
    {
        "temp": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "penalty_repeat": "repetition_penalty",
    }
)
"""Sampling defaults: ``general.sampling.…`` and ``generation_config.json``'s names."""


def refuse_split(reader: Any) -> None:
    """Raise ``ValueError`` for one part of a model that llama.cpp's ``gguf-split`` cut up."""
    count = value_of(reader, "split.count")
    if count is not None and count > 1:
        raise ValueError(
            f"split.count = {count}: a part of a model is not supported; join the parts with "
            "llama.cpp's gguf-split --merge"
        )


def refuse_not_understood(reader: Any, config: ModelConfig) -> None:
    """Raise ``ValueError`` naming the first key or tensor that the config does not imply.

    A tensor that it implies and the file lacks is refused too: transformers would make it up.
    """
    architecture = str(value_of(reader, "general.architecture"))
    _refuse_keys(reader, config, architecture)
    layers = f"{architecture}.block_count = {config.num_hidden_layers}"
    shapes = {tensor.name: [*map(int, reversed(tensor.shape))] for tensor in reader.tensors}
    implied = set()
    for name, shape in _implied(config):
        if name not in shapes:  # the first ends this, however many layers the file claims
            raise ValueError(f"tensor {name} is missing ({layers})")
        if shapes[name] != shape:
            raise ValueError(f"tensor {name} has shape {shapes[name]}, the config wants {shape}")
        implied.add(name)
    for name in shapes:
        if name not in implied:
            raise ValueError(f"tensor {name} is not supported ({layers})")


def _refuse_keys(reader: Any, config: ModelConfig, architecture: str) -> None:
    for name in reader.fields:
        if not name.startswith(f"{architecture}."):
            continue
        key, value = name.removeprefix(f"{architecture}."), value_of(reader, name)
        if key in _UNDERSTOOD or value in _WITHOUT_EFFECT.get(key, ()):
            continue
        if key in _HEAD_WIDTHS and value == config.head_dim:
            continue
        raise ValueError(f"{name} = {value!r} is not supported")
    for key in _REQUIRED:
        if value_of(reader, f"{architecture}.{key}") is None:
            raise ValueError(f"{architecture}.{key} is missing")


def _implied(config: ModelConfig) -> Iterator[tuple[str, list[int]]]:
    """Weights of a model, [out, in]; a tied head has none."""
    width, inner = config.hidden_size, config.intermediate_size
    key_value = config.num_key_value_heads * config.head_dim
    yield "token_embd.weight", [config.vocab_size, width]
    yield "output_norm.weight", [width]
    if not config.tie_word_embeddings:
        yield "output.weight", [config.vocab_size, width]
    for layer in range(config.num_hidden_layers):
        for part in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{part}.weight", [width]
        for part in ("attn_q", "attn_output"):
            yield f"blk.{layer}.{part}.weight", [width, width]
        for part in ("attn_k", "attn_v"):
            yield f"blk.{layer}.{part}.weight", [key_value, width]
        for part in ("ffn_gate", "ffn_up"):
            yield f"blk.{layer}.{part}.weight", [inner, width]
        yield f"blk.{layer}.ffn_down.weight", [width, inner]


def value_of(reader: Any, name: str) -> Any:
    """Content of a field; ``None`` where the file has none."""
    field = reader.get_field(name)
    return None if field is None else field.contents()


def end_ids(reader: Any) -> list[int]:
    """Ids that end a text or a turn, the end of text first; ``ValueError`` if there is none."""
    found = [value_of(reader, f"tokenizer.ggml.{name}_token_id") for name in ENDS]
    ids = [int(one) for one in dict.fromkeys(found) if one is not None]
    if not ids:
        raise ValueError("the file names no end-of-text token")
    return ids


def refuse_unknown_ids(reader: Any) -> None:
    """Raise ``ValueError`` naming a special token's key whose id no token of the file has."""
    tokens = reader.get_field("tokenizer.ggml.tokens")
    count = 0 if tokens is None else len(tokens.data)
    for name in ("bos", *ENDS, *(key.removesuffix("_token_id") for key in _KEPT)):
        key = f"tokenizer.ggml.{name}_token_id"
        value = value_of(reader, key)
        if value is not None and not 0 <= value < count:
            raise ValueError(f"{key} = {value}, the file has {count} tokens")


def kept_facts(reader: Any, backend: Backend, config: ModelConfig) -> dict[str, Any]:
    """What ``tokenizer_config.json`` would say of padding, unknown tokens and lengths."""
    facts: dict[str, Any] = {"model_max_length": config.max_position_embeddings}
    for key, name in _KEPT.items():
        token_id = value_of(reader, f"tokenizer.ggml.{key}")
        token = None if token_id is None else backend.id_to_token(int(token_id))
        if token is not None:
            facts[name] = token
    return facts


def sampling_defaults(reader: Any) -> dict[str, Any]:
    """What ``generation_config.json`` would say of sampling."""
    values = {ours: value_of(reader, f"general.sampling.{key}") for key, ours in SAMPLING.items()}
    return {
        # Stored as float32: the shortest decimal that is the same there is what was meant.
        name: float(str(np.float32(value))) if isinstance(value, float) else value
        for name, value in values.items()
        if value is not None
    }


def prefix_space(reader: Any, backend: Backend) -> None:
    """Begin texts with a space, or not, as the file says and llama.cpp does.

    Without a word a SentencePiece vocabulary has the space and a byte-level BPE has not. It stands
    before every text and after every special token, whatever follows; transformers' reader passes
    the key over and leaves texts alone that begin with one. Source: llama.cpp,
    ``llama_vocab::impl::tokenize``. Raises ``ValueError`` for another kind of vocabulary that says
    otherwise than its default.
    """
    model, key = value_of(reader, "tokenizer.ggml.model"), "tokenizer.ggml.add_space_prefix"
    value = value_of(reader, key)
    begins = model != "gpt2" if value is None else bool(value)
    if model != "llama":
        if begins != (model != "gpt2"):
            raise ValueError(f"{key} = {value!r} is not supported with the vocabulary {model!r}")
        return
    space = [normalizers.Prepend("▁")] if begins else []
    backend.normalizer = normalizers.Sequence([*space, normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = None
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if begins else [])])


def surround(reader: Any, backend: Backend, bos: int | None, eos: int) -> None:
    """Let the tokenizer put begin and end tokens around a text where the file says so.

    Without a word a SentencePiece vocabulary begins texts, as in llama.cpp.
    """
    is_spm = value_of(reader, "tokenizer.ggml.model") == "llama"
    adds_bos = value_of(reader, "tokenizer.ggml.add_bos_token")
    begins = is_spm if adds_bos is None else bool(adds_bos)
    ends = bool(value_of(reader, "tokenizer.ggml.add_eos_token"))
    before = [bos] if begins and bos is not None else []
    after = [eos] if ends else []
    names = {one: str(backend.id_to_token(one)) for one in (*before, *after)}
    if names or is_spm:
        parts = [*(names[one] for one in before), "$A", *(names[one] for one in after)]
        backend.post_processor = processors.TemplateProcessing(
            single=parts, special_tokens=[(name, one) for one, name in names.items()]
        )

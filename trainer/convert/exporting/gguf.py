"""A GGUF file for llama.cpp, written with llama.cpp's own ``gguf`` package.

PyPI has no maintained converter: llama.cpp's script is not published there, and what goes by its
name is a copy that installs a second ``gguf`` over the first. The official package has the format,
the table of names and the quantisation; what is added here is what the script adds for a Llama
with a byte-level BPE: metadata, the tokenizer, and the order of query and key rows, whose rotary
pairs are neighbours there.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lm.model.config import ModelConfig
from lm.text.tokenizer import Tokenizer
from trainer.convert.exporting.source import Source
from trainer.convert.importing.gguf_facts import ENDS, SAMPLING

ARCHITECTURE = "llama"


def file_name(source: Source, quantization: str) -> str:
    """As llama.cpp's own files are called."""
    return f"{source.step.manifest.run}-{source.step.number}-{quantization}.gguf"


def refuse_other_shapes(config: ModelConfig) -> None:
    """Raise ``ValueError`` unless llama.cpp's ``llama`` computes this model."""
    if not config.is_llama:
        raise ValueError(
            "gguf is written for Llama shapes alone: rope positions, rmsnorm, swiglu and no biases"
        )


def write_gguf(source: Source, path: Path, quantization: str) -> None:
    """Write the file, its matrices as ``F16`` or ``Q8_0`` and its norms as float32.

    Raises ``ValueError`` if the package is missing, or the model or its tokenizer is of a kind
    that is not known to be right there.
    """
    refuse_other_shapes(source.config)
    try:
        import gguf
    except ImportError as error:
        raise ValueError("gguf: run: pip install 'nestling[import]'") from error
    kind = gguf.GGMLQuantizationType[quantization]
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    _add_config(writer, source)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{quantization}"])
    _add_tokenizer(writer, source.tokenizer, source.config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, source.config.num_hidden_layers)
    for name, weight in source.weights.items():
        theirs = names.get_name(name, try_suffixes=(".weight",))
        assert theirs is not None, name
        data = in_their_order(name, weight, source.config).float().numpy()
        is_matrix = data.ndim == 2
        chosen = kind if is_matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(theirs, gguf.quants.quantize(data, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def in_their_order(name: str, weight: Tensor, config: ModelConfig) -> Tensor:
    """Query and key rows (j, j + half) of each head moved to (2j, 2j + 1); others as they are."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    num_heads = heads.get(name.split(".")[-2])
    if num_heads is None:
        return weight
    halves = weight.reshape(num_heads, 2, config.head_dim // 2, -1)
    return halves.transpose(1, 2).reshape(weight.shape)


def _add_config(writer: Any, source: Source) -> None:
    config = source.config
    writer.add_name(source.step.name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: Any, tokenizer: Tokenizer, vocab_size: int) -> None:
    content = json.loads(tokenizer.backend.to_str())
    if content["model"].get("type") != "BPE":
        raise ValueError("gguf: the tokenizer is no byte-level BPE")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_cutting(content["pre_tokenizer"] or {}))
    added = tokenizer.backend.get_added_tokens_decoder()
    tokens = [_token(tokenizer, added, token_id) for token_id in range(vocab_size)]
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    merges = content["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)
    _add_special(writer, tokenizer)
    for key, name in SAMPLING.items():
        if isinstance(value := tokenizer.generation.get(name), int | float):
            getattr(writer, f"add_sampling_{key}")(value if key == "top_k" else float(value))


def _add_special(writer: Any, tokenizer: Tokenizer) -> None:
    """Special tokens by what they are for; ``ValueError`` for more ends than the format has."""
    ends = tokenizer.eos_token_ids
    if len(ends) > len(ENDS):
        raise ValueError(f"gguf: the format holds {len(ENDS)} end tokens, the model has {ends}")
    for kind, token_id in zip(ENDS, ends, strict=False):
        getattr(writer, f"add_{kind}_token_id")(token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    for kind in ("pad", "unk", "sep", "mask"):
        token = tokenizer.kept.get(f"{kind}_token")
        known = None if token is None else tokenizer.backend.token_to_id(token)
        if known is not None:
            getattr(writer, f"add_{kind}_token_id")(known)
    around = tokenizer.encode("a")
    writer.add_add_bos_token(around[:1] == [tokenizer.bos_token_id])
    writer.add_add_eos_token(bool({*around[-1:]} & {*ends}))


def _token(tokenizer: Tokenizer, all_added: Mapping[int, Any], token_id: int) -> tuple[str, int]:
    """Text and kind of a token; ids that the model has and the tokenizer has not are unused."""
    import gguf

    text = tokenizer.backend.id_to_token(token_id)
    added = all_added.get(token_id)
    if text is None:
        return f"[PAD{token_id}]", gguf.TokenType.UNUSED
    if added is None:
        return text, gguf.TokenType.NORMAL
    if added.lstrip or added.rstrip or added.single_word:
        raise ValueError(f"GGUF cannot say that {text!r} takes the space beside it, or whole words")
    return text, gguf.TokenType.CONTROL if added.special else gguf.TokenType.USER_DEFINED


def _cutting(cutter: Mapping[str, Any]) -> str:
    """llama.cpp's name for how text is cut before BPE; ``ValueError`` for a way it may not know."""
    parts = cutter["pretokenizers"] if cutter.get("type") == "Sequence" else [cutter]
    kinds = [part.get("type") for part in parts]
    plain = all(part.get("use_regex", True) for part in parts) and not any(
        part.get("add_prefix_space") for part in parts
    )
    digits_apart = all(part.get("individual_digits", True) for part in parts)
    if plain and kinds == ["ByteLevel"]:
        return "gpt-2"
    if plain and digits_apart and kinds == ["Digits", "ByteLevel"]:
        return "smollm"
    raise ValueError(f"gguf: llama.cpp may not cut text as this tokenizer does ({kinds})")

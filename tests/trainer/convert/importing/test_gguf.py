"""Contract: a GGUF file, with llama.cpp's own order of query and key rows, gives our weights."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lm.model.decoder import Decoder
from lm.text.tokenizer import Tokenizer
from trainer.convert.importing.gguf import read_gguf

gguf = pytest.importorskip("gguf")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers.": "blk.",
}


def llama_cpp_order(weight: Tensor, num_heads: int) -> Tensor:
    """Rows as llama.cpp's converter leaves them: its rotary pairs are neighbours."""
    rows, columns = weight.shape
    halves = weight.reshape(num_heads, 2, rows // num_heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def write_gguf(
    path: Path,
    decoder: Decoder,
    tokenizer: Tokenizer,
    fields: Mapping[str, Any] | None = None,
    add: Callable[[Any], object] = lambda writer: None,
    *,
    lacks: str | None = None,
    block_count: int | None = None,
) -> Path:
    """The file that llama.cpp's converter would make of these weights; ``add`` adds to it.

    ``lacks`` names a tensor that is left out; ``block_count`` is what the file claims instead.
    """
    config = decoder.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(block_count or config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer, tokenizer, config.vocab_size, **(fields or {}))
    for name, weight in decoder.named_parameters():
        stored = weight.detach()
        if name.endswith("q_proj.weight"):
            stored = llama_cpp_order(stored, config.num_attention_heads)
        if name.endswith("k_proj.weight"):
            stored = llama_cpp_order(stored, config.num_key_value_heads)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)  # noqa: PLW2901
        if name != lacks:
            writer.add_tensor(name, stored.numpy())
    add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


PIECES = ["▁the", "the", "▁model", "model", "▁", *"themodl"]
SPM = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]


def add_sentencepiece(writer: Any, vocab_size: int, *, add_space_prefix: bool | None) -> None:
    """A vocabulary in which a text with a space in front has other ids."""
    merges = ["t h", "th e", "▁ the", "m o", "mo d", "mod e", "mode l", "▁ model"]
    tokens = [*SPM, "th", "mo", "mod", "mode"]
    tokens += [f"<unused {index}>" for index in range(vocab_size - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * vocab_size)
    writer.add_token_merges(merges)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (vocab_size - 259))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if add_space_prefix is not None:
        writer.add_add_space_prefix(add_space_prefix)


def add_tokenizer(
    writer: Any,
    tokenizer: Tokenizer,
    vocab_size: int,
    *,
    pre: str = "smollm",
    add_space_prefix: bool | None = None,
    is_spm: bool = False,
) -> None:
    if is_spm:
        add_sentencepiece(writer, vocab_size, add_space_prefix=add_space_prefix)
        return
    if add_space_prefix is not None:
        writer.add_add_space_prefix(add_space_prefix)
    model = json.loads(tokenizer.backend.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    padding = [f"<unused {index}>" for index in range(vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens + padding)
    writer.add_token_types([3] + [1] * (vocab_size - 1))
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)


def test_weights_config_and_tokenizer_come_back(
    tmp_path: Path, decoder: Decoder, tokenizer: Tokenizer
) -> None:
    foreign = read_gguf(write_gguf(tmp_path / "tiny.gguf", decoder, tokenizer))
    config = decoder.config
    assert foreign.config.rope_theta == 100_000.0
    assert foreign.config.norm_eps == 1e-5
    assert foreign.config.max_position_embeddings == 128
    assert foreign.config.num_parameters == config.num_parameters
    weights = dict(decoder.named_parameters())
    assert foreign.weights.keys() == weights.keys()
    assert all(torch.equal(foreign.weights[name], weight) for name, weight in weights.items())
    assert foreign.tokenizer.eos_token_ids == (0,)
    assert foreign.tokenizer.chat_template == TEMPLATE
    for text in ("to be or  12 not\n\n 7", "  1", "déjà vu"):
        assert foreign.tokenizer.encode(text) == tokenizer.encode(text)
        assert foreign.tokenizer.decode(tokenizer.encode(text)) == text


def test_an_unknown_way_of_cutting_text_is_refused(
    tmp_path: Path, decoder: Decoder, tokenizer: Tokenizer
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", decoder, tokenizer, {"pre": "viking"})
    with pytest.raises(ValueError, match=r"tokenizer\.ggml\.pre='viking' is not supported"):
        read_gguf(path)


REFUSED: dict[str, Callable[[Any], object]] = {
    "llama.rope.scaling.type = 'linear'": lambda writer: writer.add_rope_scaling_type(
        gguf.RopeScalingType.LINEAR
    ),
    "llama.rope.scaling.factor = 4.0": lambda writer: writer.add_rope_scaling_factor(4.0),
    "llama.rope.scaling.attn_factor = 2.0": lambda writer: writer.add_rope_scaling_attn_factors(
        2.0
    ),
    "llama.attention.key_length = 16": lambda writer: writer.add_key_length(16),
    "llama.attention.sliding_window = 32": lambda writer: writer.add_sliding_window(32),
    "llama.expert_count = 8": lambda writer: writer.add_expert_count(8),
    "llama.logit_scale = 0.5": lambda writer: writer.add_logit_scale(0.5),
    "llama.something.new = 1": lambda writer: writer.add_uint32("llama.something.new", 1),
    "tensor rope_freqs.weight": lambda writer: writer.add_tensor(
        "rope_freqs.weight", np.ones(4, np.float32)
    ),
    "tensor blk.0.attn_q.bias": lambda writer: writer.add_tensor(
        "blk.0.attn_q.bias", np.ones(32, np.float32)
    ),
}


@pytest.mark.parametrize(
    "lacks",
    ["token_embd.weight", "output_norm.weight", "blk.1.ffn_up.weight", "blk.0.attn_norm.weight"],
)
def test_a_missing_tensor_is_named_and_not_made_up(
    lacks: str, tmp_path: Path, decoder: Decoder, tokenizer: Tokenizer
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", decoder, tokenizer, lacks=lacks)
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")) as error:
        read_gguf(path)
    assert f"tensor {lacks} is missing" in str(error.value)


@pytest.mark.parametrize(
    ("block_count", "named"),
    [
        (1, r"tensor blk\.1\.\w+\.weight is not supported \(llama\.block_count = 1\)"),
        (3, r"tensor blk\.2\.attn_norm\.weight is missing \(llama\.block_count = 3\)"),
        (1000, r"tensor blk\.2\.attn_norm\.weight is missing"),
    ],
)
def test_a_file_has_the_layers_that_it_claims(
    block_count: int, named: str, tmp_path: Path, decoder: Decoder, tokenizer: Tokenizer
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", decoder, tokenizer, block_count=block_count)
    with pytest.raises(ValueError, match=named):
        read_gguf(path)


def test_a_tensor_of_another_shape_is_refused(
    tmp_path: Path, decoder: Decoder, tokenizer: Tokenizer
) -> None:
    name = "blk.1.ffn_up.weight"
    path = write_gguf(
        tmp_path / "tiny.gguf",
        decoder,
        tokenizer,
        lacks=name,
        add=lambda writer: writer.add_tensor(name, np.ones((40, 32), np.float32)),
    )
    with pytest.raises(
        ValueError, match=re.escape(f"tensor {name} has shape [40, 32], the config wants [48, 32]")
    ):
        read_gguf(path)


def test_a_part_of_a_split_model_is_refused_by_name(
    tmp_path: Path, decoder: Decoder, tokenizer: Tokenizer
) -> None:
    def add(writer: Any, parts: int) -> None:
        writer.add_uint16("split.no", 0)
        writer.add_uint16("split.count", parts)
        writer.add_int32("split.tensors.count", 20)

    path = write_gguf(tmp_path / "one.gguf", decoder, tokenizer, add=lambda to: add(to, 2))
    with pytest.raises(ValueError, match=r"split\.count = 2: a part of a model is not supported"):
        read_gguf(path)
    read_gguf(write_gguf(tmp_path / "all.gguf", decoder, tokenizer, add=lambda to: add(to, 1)))


def test_the_second_part_of_a_split_model_is_refused_by_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "two.gguf", "llama")
    writer.kv_data[0].pop("general.architecture")  # as gguf-split leaves it
    writer.add_uint16("split.no", 1)
    writer.add_uint16("split.count", 2)
    writer.add_tensor("blk.1.ffn_up.weight", np.ones((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"split\.count = 2"):
        read_gguf(tmp_path / "two.gguf")


@pytest.mark.parametrize("named", REFUSED)
def test_what_would_change_the_function_is_refused_by_name(
    named: str, tmp_path: Path, decoder: Decoder, tokenizer: Tokenizer
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", decoder, tokenizer, add=REFUSED[named])
    with pytest.raises(ValueError, match=re.escape(f"{named} is not supported")):
        read_gguf(path)


def test_keys_without_effect_are_no_reason_to_refuse(
    tmp_path: Path, decoder: Decoder, tokenizer: Tokenizer
) -> None:
    def add(writer: Any) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        writer.add_rope_scaling_factor(1.0)
        writer.add_rope_dimension_count(decoder.config.head_dim)
        writer.add_expert_count(0)

    read_gguf(write_gguf(tmp_path / "tiny.gguf", decoder, tokenizer, add=add))


def test_facts_beside_the_weights_are_read(
    tmp_path: Path, decoder: Decoder, tokenizer: Tokenizer
) -> None:
    def add(writer: Any) -> None:
        writer.add_eot_token_id(7)
        writer.add_eom_token_id(9)
        writer.add_pad_token_id(11)
        writer.add_add_bos_token(True)
        writer.add_sampling_temp(0.6)
        writer.add_sampling_top_k(40)

    ours = read_gguf(write_gguf(tmp_path / "tiny.gguf", decoder, tokenizer, add=add)).tokenizer
    assert ours.eos_token_ids == (0, 7, 9)
    assert ours.kept["pad_token"] == ours.backend.id_to_token(11)
    assert ours.kept["model_max_length"] == decoder.config.max_position_embeddings
    assert ours.generation == {"temperature": 0.6, "top_k": 40}
    assert ours.encode("to be") == [0, *tokenizer.encode("to be")]
    assert ours.encode("to be", add_special_tokens=False) == tokenizer.encode("to be")


@pytest.mark.parametrize(
    ("add_space_prefix", "first"), [(None, "▁the"), (True, "▁the"), (False, "the")]
)
def test_a_text_begins_with_a_space_where_the_file_says_so(
    add_space_prefix: bool | None,
    first: str,
    tmp_path: Path,
    decoder: Decoder,
    tokenizer: Tokenizer,
) -> None:
    fields = {"is_spm": True, "add_space_prefix": add_space_prefix}
    ours = read_gguf(write_gguf(tmp_path / "spm.gguf", decoder, tokenizer, fields)).tokenizer
    ids = ours.encode("the model")
    assert [ours.backend.id_to_token(one) for one in ids] == ["<s>", first, "▁model"]
    assert ours.decode(ids) == "the model"
    spaces = ours.encode("  the", add_special_tokens=False)
    pieces = [ours.backend.id_to_token(one) for one in spaces]
    assert pieces == ["▁"] * (1 if add_space_prefix is False else 2) + ["▁the"]
    assert ours.decode(ours.encode("  the é")) == "  the é"
    after = ours.encode("</s>the", add_special_tokens=False)
    assert [ours.backend.id_to_token(one) for one in after] == ["</s>", first]


def test_a_space_before_byte_level_text_is_refused_by_name(
    tmp_path: Path, decoder: Decoder, tokenizer: Tokenizer
) -> None:
    read_gguf(write_gguf(tmp_path / "a.gguf", decoder, tokenizer, {"add_space_prefix": False}))
    path = write_gguf(tmp_path / "b.gguf", decoder, tokenizer, {"add_space_prefix": True})
    with pytest.raises(ValueError, match=r"tokenizer\.ggml\.add_space_prefix = True is not"):
        read_gguf(path)


@pytest.mark.parametrize("kind", ["bos", "eos", "eot", "unknown", "padding"])
def test_an_id_that_the_model_has_not_is_refused_by_its_kind(
    kind: str, tmp_path: Path, decoder: Decoder, tokenizer: Tokenizer
) -> None:
    def add(writer: Any) -> None:
        key = f"tokenizer.ggml.{kind}_token_id"
        writer.kv_data[0].pop(key, None)
        writer.add_uint32(key, 99999)

    path = write_gguf(tmp_path / "tiny.gguf", decoder, tokenizer, add=add)
    named = rf"{re.escape(str(path))}: .*tokenizer\.ggml\.{kind}_token_id = 99999"
    with pytest.raises(ValueError, match=named):
        read_gguf(path)


def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        read_gguf(tmp_path / "absent.gguf")
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"not a gguf file at all, but long enough to be read as a header")
    with pytest.raises(ValueError, match="not a model that can be read") as error:
        read_gguf(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ("add_context_length", "llama.context_length"),
        ("add_layer_norm_rms_eps", "llama.attention.layer_norm_rms_epsilon"),
    ],
)
def test_a_missing_key_that_every_file_has_is_named_and_not_made_up(
    method: str,
    key: str,
    tmp_path: Path,
    decoder: Decoder,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gguf = pytest.importorskip("gguf")
    monkeypatch.setattr(gguf.GGUFWriter, method, lambda *_: None)
    path = write_gguf(tmp_path / "tiny.gguf", decoder, tokenizer)
    with pytest.raises(ValueError, match=f"{key} is missing"):
        read_gguf(path)

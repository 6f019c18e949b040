import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from lm.huggingface import hub
from lm.huggingface.directory import (
    FILES,
    INDEX_FILE,
    OLDER_FILES,
    PICKLED_FILE,
    PICKLED_INDEX_FILE,
    WEIGHTS_FILE,
    fetch,
    read_directory,
)
from lm.model.decoder import Decoder
from lm.text.tokenizer import Tokenizer


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def edit_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = safetensors.torch.load_file(directory / WEIGHTS_FILE)
    change(weights)
    safetensors.torch.save_file(weights, directory / WEIGHTS_FILE)


def shard(directory: Path) -> dict[str, str]:
    """Split the weights into two files and an index; returns which file holds what."""
    weights = safetensors.torch.load_file(directory / WEIGHTS_FILE)
    (directory / WEIGHTS_FILE).unlink()
    shard_of = {name: f"part-{index % 2}.safetensors" for index, name in enumerate(weights)}
    for file in set(shard_of.values()):
        part = {name: weights[name] for name in weights if shard_of[name] == file}
        safetensors.torch.save_file(part, directory / file)
    (directory / INDEX_FILE).write_text(json.dumps({"weight_map": shard_of}), "utf-8")
    return shard_of


def test_a_directory_gives_config_weights_and_tokenizer(
    model_dir: Path, decoder: Decoder, tokenizer: Tokenizer
) -> None:
    foreign = read_directory(model_dir)
    assert foreign.config.num_parameters == decoder.config.num_parameters
    assert foreign.tokenizer.fingerprint == tokenizer.fingerprint
    weights = dict(decoder.named_parameters())
    assert foreign.weights.keys() == weights.keys()
    assert all(torch.equal(foreign.weights[name], weight) for name, weight in weights.items())


def test_shards_are_joined(model_dir: Path, decoder: Decoder) -> None:
    shard(model_dir)
    foreign = read_directory(model_dir)
    assert foreign.weights.keys() == dict(decoder.named_parameters()).keys()


def test_a_weight_comes_from_the_shard_that_the_index_names(
    model_dir: Path, decoder: Decoder
) -> None:
    shard_of, name = shard(model_dir), "model.norm.weight"
    (other,) = set(shard_of.values()) - {shard_of[name]}
    stale = safetensors.torch.load_file(model_dir / other) | {name: torch.zeros(32)}
    safetensors.torch.save_file(stale, model_dir / other)
    if other < shard_of[name]:  # the last one to be read holds the copy
        (model_dir / other).rename(model_dir / "z.safetensors")
        renamed = {one: "z.safetensors" if at == other else at for one, at in shard_of.items()}
        edit(model_dir / INDEX_FILE, weight_map=renamed)
    weights = read_directory(model_dir).weights
    assert torch.equal(weights[name], dict(decoder.named_parameters())[name])


def test_an_untied_head_is_kept(model_dir: Path) -> None:
    head = torch.rand(280, 32)
    edit(model_dir / "config.json", tie_word_embeddings=False)
    edit_weights(model_dir, lambda weights: weights.update({"lm_head.weight": head}))
    assert torch.equal(read_directory(model_dir).weights["lm_head.weight"], head)


def test_a_tied_head_that_is_stored_too_is_left_out(model_dir: Path) -> None:
    edit_weights(
        model_dir,
        lambda weights: weights.update(
            {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
        ),
    )
    assert "lm_head.weight" not in read_directory(model_dir).weights


def test_rotary_buffers_of_older_files_are_left_out(model_dir: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    frequencies = 100_000.0 ** -(torch.arange(0, 8, 2) / 8)
    edit_weights(model_dir, lambda weights: weights.update({name: frequencies}))
    assert name not in read_directory(model_dir).weights


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen2"}, "model_type 'qwen2' is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ({"attention_bias": True}, "attention_bias=True is not supported"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "is not supported"),
        ({"tie_word_embeddings": False}, r"weights: lm_head\.weight is missing"),
        ({"intermediate_size": 50}, r"has shape \[48, 32\], the config wants \[50, 32\]"),
        ({"num_hidden_layers": 1}, r"weights: model\.layers\.1\..* is not supported"),
        ({"num_hidden_layers": 3}, r"weights: model\.layers\.2\..* is missing"),
    ],
)
def test_a_config_that_is_not_the_weights_or_not_ours_is_refused_by_name(
    model_dir: Path, changes: dict[str, Any], message: str
) -> None:
    edit(model_dir / "config.json", **changes)
    with pytest.raises(ValueError, match=message) as error:
        read_directory(model_dir)
    assert "\n" not in str(error.value)


def test_a_tied_head_of_its_own_is_refused(model_dir: Path) -> None:
    head = torch.rand(280, 32)
    edit_weights(model_dir, lambda weights: weights.update({"lm_head.weight": head}))
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from the embedding"):
        read_directory(model_dir)


def test_integer_weights_are_refused(model_dir: Path) -> None:
    ones = torch.ones(32, dtype=torch.int8)
    edit_weights(model_dir, lambda weights: weights.update({"model.norm.weight": ones}))
    with pytest.raises(ValueError, match=r"model\.norm\.weight is torch\.int8"):
        read_directory(model_dir)


def test_a_tokenizer_larger_than_the_model_is_refused(model_dir: Path) -> None:
    tokenizer = Tokenizer.load(model_dir)
    tokenizer.backend.add_tokens([f"<extra {index}>" for index in range(20)])
    tokenizer.save(model_dir)
    with pytest.raises(ValueError, match="the tokenizer has 286 ids, the model 280"):
        read_directory(model_dir)


def test_missing_and_broken_files_are_refused_by_name(model_dir: Path) -> None:
    shard_of = shard(model_dir)
    (model_dir / "part-1.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"part-1\.safetensors: not safetensors"):
        read_directory(model_dir)
    (model_dir / "part-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"part-1\.safetensors"):
        read_directory(model_dir)
    index = model_dir / INDEX_FILE
    edit(index, weight_map=shard_of | {"x": "../secret"})
    with pytest.raises(ValueError, match=r"'\.\./secret' is not a plain file name"):
        read_directory(model_dir)
    edit(index, weight_map=dict.fromkeys(shard_of, "part-0.safetensors"))
    with pytest.raises(ValueError, match="the shards lack"):
        read_directory(model_dir)
    index.unlink()
    with pytest.raises(ValueError, match=r"no model\.safetensors, model"):
        read_directory(model_dir)
    (model_dir / "config.json").write_text("[]", "utf-8")
    with pytest.raises(ValueError, match=r"config\.json: not a JSON object"):
        read_directory(model_dir)
    (model_dir / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json: No such file"):
        read_directory(model_dir)


def pickle_weights(directory: Path, shards: int = 1) -> None:
    """The weights as older transformers wrote them, rotary buffers too."""
    weights = safetensors.torch.load_file(directory / WEIGHTS_FILE)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = 100_000.0 ** -(
        torch.arange(0, 8, 2) / 8
    )
    (directory / WEIGHTS_FILE).unlink()
    if shards == 1:
        torch.save(weights, directory / PICKLED_FILE)
        return
    shard_of = {name: f"pytorch_model-{i % shards}.bin" for i, name in enumerate(weights)}
    for file in set(shard_of.values()):
        part = {name: weights[name] for name in weights if shard_of[name] == file}
        torch.save(part, directory / file)
    index = {"weight_map": shard_of}
    (directory / PICKLED_INDEX_FILE).write_text(json.dumps(index), "utf-8")


@pytest.mark.parametrize("shards", [1, 2])
def test_weights_of_pytorch_model_bin_alone_are_read(
    model_dir: Path, decoder: Decoder, shards: int
) -> None:
    pickle_weights(model_dir, shards)
    weights = read_directory(model_dir).weights
    for name, weight in decoder.named_parameters():
        assert torch.equal(weights[name], weight), name


def test_weights_that_share_memory_in_a_pickle_can_be_saved(model_dir: Path) -> None:
    edit(model_dir / "config.json", tie_word_embeddings=False)
    weights = safetensors.torch.load_file(model_dir / WEIGHTS_FILE)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    (model_dir / WEIGHTS_FILE).unlink()
    torch.save(weights, model_dir / PICKLED_FILE)
    read = read_directory(model_dir).weights
    assert torch.equal(read["lm_head.weight"], read["model.embed_tokens.weight"])
    saved = safetensors.torch.load(safetensors.torch.save(dict(read)))
    assert saved.keys() == read.keys()


def test_a_pickle_that_wants_more_than_weights_is_refused_and_not_run(model_dir: Path) -> None:
    (model_dir / WEIGHTS_FILE).unlink()
    torch.save({"a": Path("x")}, model_dir / PICKLED_FILE)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: refused: it asks for pathlib"):
        read_directory(model_dir)
    torch.save({"a": 5}, model_dir / PICKLED_FILE)
    with pytest.raises(ValueError, match=r"'a' is a int, not a weight"):
        read_directory(model_dir)


def test_a_hub_repository_without_safetensors_is_asked_for_its_older_files(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(hub, "download", lambda *call: asked.append(call) or model_dir)
    assert fetch("hub:owner/name") == model_dir
    assert asked == [("hub:owner/name", FILES)]
    pickle_weights(model_dir)
    fetch("hub:owner/name")
    assert asked[1:] == [("hub:owner/name", FILES), ("hub:owner/name", OLDER_FILES)]


def add_tokens(directory: Path, count: int, *, special: bool = True, **names: str) -> None:
    """As many ``[PAD…]`` tokens as ids are wanted, and what the config calls some of them."""
    backend = Backend.from_file(str(directory / "tokenizer.json"))
    tokens = [AddedToken(f"[PAD{index}]", special=special) for index in range(count)]
    backend.add_tokens(tokens)
    backend.save(str(directory / "tokenizer.json"))
    edit(directory / "tokenizer_config.json", **names)


def test_a_pad_token_past_the_embedding_is_left_out(model_dir: Path, tokenizer: Tokenizer) -> None:
    count = 281 - tokenizer.vocab_size
    add_tokens(model_dir, count, pad_token=f"[PAD{count - 1}]", unk_token="[PAD0]")
    edit(model_dir / "generation_config.json", pad_token_id=280, max_new_tokens=9999, top_k=5)
    kept = read_directory(model_dir).tokenizer
    assert kept.vocab_size == 280
    assert kept.generation == {"max_new_tokens": 9999, "top_k": 5}
    assert kept.kept == {"unk_token": "[PAD0]"}
    assert max(kept.encode(f"to be [PAD{count - 1}]")) < 280
    assert kept.encode("to be or not") == tokenizer.encode("to be or not")


def test_a_pad_id_that_no_tokenizer_and_no_embedding_has_is_left_out(model_dir: Path) -> None:
    edit(model_dir / "generation_config.json", pad_token_id=5000, suppress_tokens=[1, 5000])
    assert read_directory(model_dir).tokenizer.generation == {}
    edit(model_dir / "generation_config.json", pad_token_id=2, suppress_tokens=[1])
    kept = read_directory(model_dir).tokenizer.generation
    assert kept == {"pad_token_id": 2, "suppress_tokens": [1]}


def test_a_token_of_text_past_the_embedding_is_refused_by_name(
    model_dir: Path, tokenizer: Tokenizer
) -> None:
    count = 281 - tokenizer.vocab_size
    add_tokens(model_dir, count, special=False)
    with pytest.raises(ValueError, match=rf"281 ids, the model 280: none for '\[PAD{count - 1}\]'"):
        read_directory(model_dir)


def test_an_end_token_past_the_embedding_is_refused_by_name(
    model_dir: Path, tokenizer: Tokenizer
) -> None:
    count = 281 - tokenizer.vocab_size
    add_tokens(model_dir, count, eos_token=f"[PAD{count - 1}]")
    with pytest.raises(ValueError, match=r"none for '\[PAD"):
        read_directory(model_dir)


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("value", [99999, [0, 99999]])
def test_an_end_token_that_the_model_has_not_is_refused_by_its_file(
    model_dir: Path, file: str, value: int | list[int]
) -> None:
    edit(model_dir / "generation_config.json", eos_token_id=0)
    edit(model_dir / file, eos_token_id=value)
    said = f"{model_dir / file}: eos_token_id names end token 99999, the model has 280 ids"
    with pytest.raises(ValueError, match=re.escape(said)):
        read_directory(model_dir)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("added_tokens.json", {"<x>": 9000}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9000": {"content": "<x>"}}}),
    ],
)
def test_a_wrong_id_of_an_added_token_is_refused_by_its_file(
    model_dir: Path, file: str, changes: dict[str, Any]
) -> None:
    (model_dir / "added_tokens.json").write_text("{}", "utf-8")
    edit(model_dir / file, **changes)
    said = f"{model_dir / file}: gives token '<x>' the id 9000"
    with pytest.raises(ValueError, match=re.escape(said)):
        read_directory(model_dir)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        *(("tokenizer_config.json", name) for name in ("eos_token", "padding_side", "unk_token")),
        *(("tokenizer_config.json", name) for name in ("chat_template", "\ud800", "image_token")),
        *(("special_tokens_map.json", name) for name in ("pad_token", "mask_token")),
        ("generation_config.json", "cache_implementation"),
        ("added_tokens.json", "\ud800"),
        *(("config.json", name) for name in ("hidden_act", "architectures")),
        (INDEX_FILE, "metadata"),
    ],
)
def test_half_a_character_is_refused_by_its_file(model_dir: Path, file: str, name: str) -> None:
    if file == INDEX_FILE:
        shard(model_dir)
    if not (model_dir / file).exists():
        (model_dir / file).write_text("{}", "utf-8")
    edit(model_dir / file, **{name: "a\udc3f"})
    with pytest.raises(ValueError, match="is half of a character") as error:
        read_directory(model_dir)
    assert str(model_dir / file) in str(error.value)
    str(error.value).encode()  # and can be written
    assert not isinstance(error.value, UnicodeError)


def test_a_whole_pair_of_surrogates_is_text(model_dir: Path) -> None:
    edit(model_dir / "tokenizer_config.json", pad_token="😀")
    assert r"\ud83d" in (model_dir / "tokenizer_config.json").read_text("utf-8")
    assert read_directory(model_dir).tokenizer.kept["pad_token"] == "😀"


def test_a_token_past_the_embedding_that_begins_every_text_is_refused_by_name(
    model_dir: Path, tokenizer: Tokenizer
) -> None:
    count = 281 - tokenizer.vocab_size
    add_tokens(model_dir, count)
    backend = Backend.from_file(str(model_dir / "tokenizer.json"))
    begin = f"[PAD{count - 1}]"
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, 280)]
    )
    backend.save(str(model_dir / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"none for '\[PAD"):
        read_directory(model_dir)


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"),
        *(INDEX_FILE, WEIGHTS_FILE, PICKLED_FILE, PICKLED_INDEX_FILE, "added_tokens.json"),
        *("special_tokens_map.json", "chat_template.jinja"),
    ],
)
@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"[1, 2]", b'{"weight_map": [], "model": 5', b'"text"'],
    ids=["empty", "bytes", "list", "cut", "string"],
)
def test_a_broken_file_is_named_and_no_traceback_comes_of_it(
    model_dir: Path, name: str, content: bytes
) -> None:
    if name != WEIGHTS_FILE and name in (INDEX_FILE, PICKLED_FILE, PICKLED_INDEX_FILE):
        (model_dir / WEIGHTS_FILE).unlink()
    if name == "chat_template.jinja" and content != b"\xff\xfe\x00":
        pytest.skip("any text is a template")
    if name in ("added_tokens.json", "special_tokens_map.json"):
        edit(model_dir / "tokenizer_config.json")
    (model_dir / name).write_bytes(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_directory(model_dir)


def test_templates_of_a_folder_of_their_own_go_through(model_dir: Path, tmp_path: Path) -> None:
    (model_dir / "chat_template.jinja").write_text("{{ messages[0].content }}")
    others = model_dir / "additional_chat_templates"
    others.mkdir()
    (others / "rag.jinja").write_text("{{ documents }}")
    made = read_directory(model_dir).tokenizer
    assert made.chat_template == "{{ messages[0].content }}"
    saved = tmp_path / "saved"
    saved.mkdir()
    made.save(saved)
    theirs = AutoTokenizer.from_pretrained(saved)
    assert theirs.get_chat_template("rag") == "{{ documents }}"
    assert theirs.get_chat_template() == made.chat_template


def test_a_rotary_base_that_is_null_is_refused(model_dir: Path) -> None:
    path = model_dir / "config.json"
    values = json.loads(path.read_text())
    del values["rope_parameters"]
    path.write_text(json.dumps(values | {"rope_theta": None}))
    with pytest.raises(ValueError, match=f"^{path}: rope_theta=None is not supported"):
        read_directory(model_dir)

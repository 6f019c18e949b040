import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lm.decoder import Decoder
from lm.foreign.directory import INDEX_FILE, WEIGHTS_FILE, read_directory
from lm.tokenizer import Tokenizer


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
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor"):
        read_directory(model_dir)
    (model_dir / "config.json").write_text("[]", "utf-8")
    with pytest.raises(ValueError, match=r"config\.json: not a JSON object"):
        read_directory(model_dir)
    (model_dir / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json: No such file"):
        read_directory(model_dir)

"""Whatever the files of a model directory hold, a refusal is one line that names the file."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from foreign_model import CONFIG

from lm.huggingface.directory import INDEX_FILE, read_directory
from lm.model.decoder import Decoder
from lm.text.tokenizer import Tokenizer
from lm.volume import model_files

ODD: list[Any] = [None, True, -1, 0, 2.5, 1e308, 10**30, "", "text", [], [1], ["a"], {}, {"a": 1}]
FIELDS = [
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_key_value_heads"),
    *("num_attention_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta", "head_dim"),
    *("rope_scaling", "rope_parameters", "tie_word_embeddings", "hidden_act", "attention_bias"),
    *("initializer_range", "model_type", "sliding_window", "quantization_config", "eos_token_id"),
    *("nestling", "partial_rotary_factor"),
]
TOKENIZER = [
    *("add_prefix_space", "split_special_tokens"),
    *("bos_token", "eos_token", "pad_token", "unk_token", "chat_template", "added_tokens_decoder"),
    *("extra_special_tokens", "additional_special_tokens", "model_max_length", "image_token"),
]
GENERATION = ["eos_token_id", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"]
INDEX = ["weight_map"]
MAP = ["bos_token", "extra_special_tokens", "pad_token"]
CASES = [
    *(("config.json", name) for name in FIELDS),
    *(("tokenizer_config.json", name) for name in TOKENIZER),
    *(("generation_config.json", name) for name in GENERATION),
    *((INDEX_FILE, name) for name in INDEX),
    *(("special_tokens_map.json", name) for name in MAP),
    *(("added_tokens.json", name) for name in ("<x>", "to")),
    *(("tokenizer.json", name) for name in ("model", "added_tokens", "decoder", "normalizer")),
]


NUMBERS: list[Any] = [-1, 0, 2.5, 1e308, 10**30]
NAMES: list[Any] = [None, "", "text"]
"""A special token of no text is none; one that the vocabulary has not is added, as elsewhere."""
ENDS: list[Any] = [None, 0, [], [1]]
EFFECTLESS = {"nestling", "image_token"}
"""Keys that another ``model_type`` has, or that nothing here reads."""
ACCEPTED: dict[str, list[Any]] = {
    "rms_norm_eps": [0, 2.5, 1e308, 10**30],
    "rope_theta": [None, *NUMBERS],  # beside ``rope_parameters``, which count
    "head_dim": [None],
    "rope_scaling": [None, {}],
    "rope_parameters": [None, {}],
    "tie_word_embeddings": [True],
    "attention_bias": [None, 0],
    "initializer_range": [None, 0, 2.5, 1e308, 10**30],
    "sliding_window": [None],
    "quantization_config": [None],
    "eos_token_id": ENDS,
    "partial_rotary_factor": [None, True],
    "bos_token": NAMES,
    "eos_token": NAMES,
    "pad_token": NAMES,
    "unk_token": NAMES,
    "chat_template": [None, "", "text", []],
    "added_tokens_decoder": [None, {}],
    "extra_special_tokens": [None, [], ["a"], {}],
    "additional_special_tokens": [None, [], ["a"], {}],
    "add_prefix_space": [None, True],
    "split_special_tokens": [None, 0, "", [], {}],
    "model_max_length": [None, *NUMBERS],
    "temperature": [None, 0, 2.5],
    "top_k": [None, -1, 0],
    "top_p": [None, 0],
    "min_p": [None, 0],
    "repetition_penalty": [None, 2.5],
    "added_tokens": [[]],
    "decoder": [None, ["a"]],  # the library reads fields without their names too
    "normalizer": [None, ["a"]],
}
"""Of the odd values those that mean something, or that the file may hold without a meaning."""


@pytest.mark.parametrize(("file", "name"), CASES)
def test_any_value_is_read_or_refused_in_one_line_that_names_the_file(
    model_dir: Path, file: str, name: str
) -> None:
    path = model_dir / file
    if file == INDEX_FILE:
        (model_dir / "model.safetensors").unlink()
    before = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    accepted: list[Any] = []
    for value in ODD:
        path.write_text(json.dumps(before | {name: value}), "utf-8")
        try:
            read_directory(model_dir)
            accepted.append(value)
        except ValueError as error:
            assert _names(str(error), file), (value, error)  # noqa: PT017
            assert str(model_dir) in str(error), (value, error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
    if name not in EFFECTLESS:
        assert repr(accepted) == repr(ACCEPTED.get(name, [])), name


@pytest.mark.parametrize("name", ["bos_token", "eos_token"])
def test_a_begin_or_end_without_an_embedding_is_found_by_its_file(
    tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.num_ids)
    weights = dict(Decoder(config).named_parameters())
    for file, write in model_files(weights, config, tokenizer).items():
        write(tmp_path / file)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {name: "<nope>"}), "utf-8")
    with pytest.raises(ValueError, match=f"^{path}: {name}: .* none for '<nope>'$"):
        read_directory(tmp_path)


def _names(message: str, file: str) -> bool:
    """Whether the file is named, or, where it only disagrees with another, what disagrees."""
    disagrees = ("weights:", "the tokenizer has", "tie_word_embeddings is set", "its files give")
    return file in message or any(words in message for words in disagrees) or "model." in message

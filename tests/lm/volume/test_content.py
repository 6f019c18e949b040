import hashlib
import io
import json
import os
import random
from pathlib import Path
from typing import BinaryIO

import pytest
import safetensors.torch
import torch
from toys import (
    publish_toy,
    toy_config,
    toy_decoder,
    toy_details,
    toy_tokenizer,
    toy_weights,
)
from toys.damage import edit_manifest, flip_byte
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm.model.config import ModelConfig
from lm.model.decoder import decoder_from_weights
from lm.text.tokenizer import Tokenizer
from lm.volume import (
    Step,
    StepDamaged,
    StepVanished,
    load_model_config,
    load_side_files,
    load_tokenizer,
    load_weights,
    model_files,
    publish,
    read_file,
)
from lm.volume.publish import TextFile
from lm.volume.read import read_step

SHAPES = {
    "llama": toy_config(),
    "untied": toy_config(tie_word_embeddings=False),
    "gpt": toy_config(positions="learned", norm="layernorm", mlp="gelu", bias=True, dropout=0.1),
    "initialised otherwise": toy_config(initializer_range=0.02, dropout=0.1),
}
shapes = pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return publish_toy(tmp_path, "run", 1, seed=5)


def replace_listed_file(step: Step, name: str, content: bytes) -> Step:
    """Change a file together with what the manifest says of it."""
    (step.path / name).write_bytes(content)
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_manifest(step.path, lambda values: values["files"].update({name: entry}))
    return read_step(step.path)


@shapes
def test_a_model_comes_back_as_it_was_published(tmp_path: Path, config: ModelConfig) -> None:
    step = publish_toy(tmp_path, "run", 1, seed=5, config=config)
    decoder = decoder_from_weights(load_model_config(step), load_weights(step)).eval()
    row = torch.arange(20)[None]
    assert torch.equal(decoder(row), toy_decoder(5, config)(row))
    assert Tokenizer.load(step.path).fingerprint == step.manifest.details.tokenizer_fingerprint


@shapes
def test_a_tied_head_is_written_once(tmp_path: Path, config: ModelConfig) -> None:
    step = publish_toy(tmp_path, "run", 1, config=config)
    assert ("lm_head.weight" in load_weights(step)) is (not config.tie_word_embeddings)
    assert step.manifest.files["model.safetensors"].size > 4 * config.num_parameters
    assert step.manifest.files["model.safetensors"].size < 4 * config.num_parameters + 8_000


def test_a_llama_step_opens_with_transformers_as_it_is(step: Step) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(step.path)
    text = "To be, or not to be"
    token_ids = torch.tensor([AutoTokenizer.from_pretrained(step.path).encode(text)])
    assert token_ids.tolist() == [toy_tokenizer().encode(text)]
    with torch.inference_mode():
        torch.testing.assert_close(
            theirs(token_ids).logits, toy_decoder(5)(token_ids), rtol=0, atol=1e-4
        )
    assert theirs.generation_config.eos_token_id == [0]


def test_the_config_says_which_dtype_the_weights_have(tmp_path: Path) -> None:
    weights = {name: tensor.bfloat16() for name, tensor in toy_weights().items()}
    step = publish_toy(tmp_path, "run", 1, weights=weights)
    assert json.loads((step.path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in load_weights(step).values()} == {torch.bfloat16}


def test_weights_that_are_views_are_written_as_what_they_show(tmp_path: Path) -> None:
    weights = toy_weights()
    name = "model.layers.0.self_attn.q_proj.weight"
    weights[name] = weights[name].T
    step = publish_toy(tmp_path, "run", 1, weights=weights)
    assert torch.equal(load_weights(step)[name], weights[name])


def test_every_end_token_is_written_and_read_again(tmp_path: Path) -> None:
    tokenizer = Tokenizer(toy_tokenizer().backend, bos_token_id=None, eos_token_ids=[0, 7])
    (tmp_path / "run").mkdir()
    files = model_files(toy_weights(), toy_config(), tokenizer)
    step = publish(tmp_path / "run", 1, files, toy_details(1))
    loaded = Tokenizer.load(step.path)
    assert loaded.eos_token_ids == (0, 7)
    assert loaded.bos_token_id is None
    assert loaded.fingerprint == tokenizer.fingerprint


def test_loaded_weights_do_not_alias_the_file(step: Step) -> None:
    loaded, expected = load_weights(step), toy_weights(5)
    file = step.path / "model.safetensors"
    assert str(file) not in Path("/proc/self/maps").read_text()
    os.truncate(file, 0)
    file.unlink()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, expected[name])
        tensor.zero_()


def test_two_loads_share_nothing(step: Step) -> None:
    first, second = load_weights(step), load_weights(step)
    first["model.norm.weight"].zero_()
    assert torch.equal(second["model.norm.weight"], torch.ones(64))


def test_changed_weights_are_found_by_their_hash(step: Step) -> None:
    flip_byte(step.path)
    with pytest.raises(StepDamaged, match=r"model\.safetensors: SHA-256 differs"):
        load_weights(step)
    assert load_weights(step, check_hash=False).keys() | {"lm_head.weight"} == toy_weights().keys()


def test_a_broken_header_is_damage_even_where_hashes_are_not_checked(step: Step) -> None:
    file, chance = step.path / "model.safetensors", random.Random(0)
    content, damaged = file.read_bytes(), 0
    for position in [*range(8), *chance.sample(range(8, 1_500), 200)]:
        changed = bytearray(content)
        changed[position] = chance.randrange(256)
        file.write_bytes(changed)
        try:
            loaded = load_weights(step, check_hash=False)
        except StepDamaged as error:
            damaged += 1
            assert "model.safetensors" in str(error)  # noqa: PT017
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in loaded.values())
    assert 100 < damaged < 208


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_truncated_file_is_damage(step: Step, name: str) -> None:
    os.truncate(step.path / name, 10)
    with pytest.raises(StepDamaged, match="10 bytes, not what the manifest says"):
        load_weights(step) if name == "model.safetensors" else load_model_config(step)


def test_what_is_no_safetensors_is_damage_though_its_hash_is_right(step: Step) -> None:
    for content in (b"", b"no safetensors", (1 << 60).to_bytes(8, "little")):
        changed = replace_listed_file(step, "model.safetensors", content)
        with pytest.raises(StepDamaged, match=r"model\.safetensors"):
            load_weights(changed)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "{}", '{"model_type": "llama"}', '{"model_type": "nestling"}'],
)
def test_what_is_no_config_is_damage_though_its_hash_is_right(step: Step, content: str) -> None:
    changed = replace_listed_file(step, "config.json", content.encode())
    with pytest.raises(StepDamaged, match=r"config\.json"):
        load_model_config(changed)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 3),
        ("max_position_embeddings", 512),
        ("rms_norm_eps", 1e-6),
        ("tie_word_embeddings", False),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 100_000.0}),
    ],
)
def test_a_config_of_another_model_than_the_manifests_is_damage(
    step: Step, field: str, value: object
) -> None:
    values = json.loads((step.path / "config.json").read_text()) | {field: value}
    changed = replace_listed_file(step, "config.json", json.dumps(values).encode())
    with pytest.raises(StepDamaged, match="describe different models"):
        load_model_config(changed)


def test_a_config_with_a_feature_we_lack_is_damage_that_names_it(step: Step) -> None:
    values = json.loads((step.path / "config.json").read_text()) | {"attention_bias": True}
    changed = replace_listed_file(step, "config.json", json.dumps(values).encode())
    with pytest.raises(StepDamaged, match="attention_bias=True is not supported"):
        load_model_config(changed)


def test_a_file_that_is_not_there_is_damage_while_the_step_is_and_vanished_after(
    step: Step,
) -> None:
    (step.path / "config.json").unlink()
    with pytest.raises(StepDamaged, match=r"config\.json: No such file"):
        load_model_config(step)
    step.path.rename(step.path.with_name(".trash"))
    with pytest.raises(StepVanished):
        load_model_config(step)


def test_a_file_that_the_manifest_does_not_know_is_not_read(step: Step) -> None:
    (step.path / "more.json").write_text("{}")
    with pytest.raises(StepDamaged, match=r"more\.json"):
        read_file(step, "more.json")


def test_a_file_that_became_a_link_after_its_step_was_read_is_not_followed(step: Step) -> None:
    outside = step.path.parents[2] / "outside.json"
    (step.path / "config.json").rename(outside)
    (step.path / "config.json").symlink_to(outside)
    with pytest.raises(StepDamaged, match=r"config\.json: Too many levels of symbolic links"):
        read_file(step, "config.json")


def test_a_hash_is_compared_unless_that_is_left_out(step: Step) -> None:
    content = (step.path / "config.json").read_bytes()
    (step.path / "config.json").write_bytes(content.replace(b"e", b"E"))
    assert len(read_file(step, "config.json", check_hash=False)) == len(content)
    with pytest.raises(StepDamaged, match=r"config\.json: SHA-256 differs"):
        read_file(step, "config.json")


def test_the_weights_file_says_that_it_is_pytorchs(step: Step) -> None:
    with safetensors.safe_open(step.path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_step_without_weights_is_damage(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    step = publish(tmp_path / "run", 1, {"a.txt": TextFile("a")}, toy_details(1))
    with pytest.raises(StepDamaged, match=r"model\.safetensors"):
        load_weights(step)


UNLISTED = {
    "chat_template.jinja": "{{ 1/0 }}",
    "added_tokens.json": '{"<|more|>": 300}',
    "special_tokens_map.json": '{"eos_token": "a"}',
    "tokenizer.model": "no vocabulary",
}


@pytest.mark.parametrize("name", UNLISTED)
def test_a_file_that_the_manifest_does_not_list_has_no_effect_on_a_tokenizer(
    step: Step, name: str
) -> None:
    before = load_tokenizer(step)
    (step.path / name).write_text(UNLISTED[name])
    after = load_tokenizer(step)
    assert after.fingerprint == before.fingerprint == step.manifest.details.tokenizer_fingerprint
    assert (after.chat_template, after.kept, after.vocab_size) == (
        *(before.chat_template, before.kept),
        before.vocab_size,
    )


def test_an_unlisted_generation_config_has_no_effect(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "run", 1)
    edit_manifest(step.path, lambda values: values["files"].pop("generation_config.json"))
    (step.path / "generation_config.json").write_text('{"eos_token_id": 5, "temperature": 0.1}')
    tokenizer = load_tokenizer(read_step(step.path))
    assert (tokenizer.eos_token_ids, tokenizer.generation) == ((0,), {})


def test_a_step_without_a_listed_tokenizer_has_none(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "run", 1)
    edit_manifest(step.path, lambda values: values["files"].pop("tokenizer.json"))
    with pytest.raises(StepDamaged, match="no tokenizer"):
        load_tokenizer(read_step(step.path))


def test_what_is_parsed_is_what_was_hashed(step: Step) -> None:
    """Each file is opened once; one that is replaced just after it was read changes nothing."""
    opened: list[str] = []

    def then_replace(path: Path) -> BinaryIO:
        opened.append(path.name)
        file = io.BytesIO(path.read_bytes())
        path.unlink()
        path.write_text("{}")
        return file

    files = load_side_files(step, open_file=then_replace)
    assert load_model_config(step, files).hidden_size == 64
    tokenizer = load_tokenizer(step, files)
    assert tokenizer.fingerprint == step.manifest.details.tokenizer_fingerprint
    assert sorted(opened) == sorted(set(step.manifest.files) - {"model.safetensors"})

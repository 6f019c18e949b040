"""Files that hold what nobody expects: status 0 or 2, one line that names one, no traceback."""

import random
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from toy_run import tensors_of, toy_recipe, train_toy
from toys.odd_content import damage, vouch

from trainer.__main__ import main

SHORT, LONG = 12, 300
"""Damages of each file in the short dose and in the thorough one."""
IN_THE_STEP = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume with a run, and beside it a file of each kind that a run can begin from."""
    path = tmp_path_factory.mktemp("good")
    train_toy(path / "volume", last_step=5)
    (path / "toy.yaml").write_text(yaml.safe_dump(toy_recipe().to_dict()))
    weights = {
        name.partition(":")[2]: tensor
        for name, tensor in tensors_of(path / "volume").items()
        if name.startswith("model.safetensors")
    }
    torch.save({"model": weights}, path / "toy.pt")
    lightning = {"epoch": 1, "global_step": 5, "hyper_parameters": {"lr": 0.1}, "loops": {}}
    torch.save({**lightning, "state_dict": weights}, path / "toy.ckpt")
    out = ["--output", str(path / "out"), "--measure-tokens", "0"]
    assert main(["export", "toy", "--volume", str(path / "volume"), "--format", "gguf", *out]) == 0
    (made,) = (path / "out").glob("*.gguf")
    shutil.move(made, path / "toy.gguf")
    return path


def calls(path: Path) -> dict[str, list[str]]:
    """What reads each kind of file."""
    volume, step = ["--volume", str(path / "volume")], "volume/toy/step-00000005"
    recipe = ["--recipe", str(path / "toy.yaml")]
    train = [*recipe, *volume, "--run", "toy", "--threads", "1"]
    tokenizer = ["--tokenizer", str(path / step)]
    out = ["--output", str(path / "new"), "--measure-tokens", "0"]
    export = ["export", "toy", *volume, "--format", "hf", *out]
    return {
        "toy.gguf": ["import", str(path / "toy.gguf"), *volume, "--run", "new"],
        "toy.pt": ["import", str(path / "toy.pt"), *recipe, *tokenizer, *volume, "--run", "new"],
        "toy.ckpt": ["import", str(path / "toy.ckpt"), *recipe, *tokenizer, *volume, "--run", "c"],
        "toy.yaml": ["describe", *recipe],
        "volume/toy/metrics.jsonl": ["plot", str(path / "volume/toy"), "--output", str(path / "p")],
        f"{step}/training_state.json": train,
        f"{step}/training_state.safetensors": train,
        f"{step}/manifest.json": train,
        "volume/toy/samples.jsonl": train,
        "volume/toy/training.log": train,
        "volume/.cache/tokens/*/train.bin": train,
        "volume/.cache/tokens/*/validation.bin": train,
        "volume/.cache/tokens/*/meta.json": train,
        **{f"{step}/{name}": export for name in IN_THE_STEP},
        f"{step}/model.safetensors": export,
    }


KINDS = tuple(calls(Path()))


@pytest.mark.parametrize("file", KINDS)
def test_damage_is_told_in_one_line(
    file: str, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    survive(file, good, tmp_path, capsys, range(SHORT))


@pytest.mark.slow
@pytest.mark.parametrize("file", KINDS)
def test_much_damage_is_told_in_one_line(
    file: str, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    survive(file, good, tmp_path, capsys, range(SHORT, LONG))


def survive(
    file: str, good: Path, path: Path, capsys: pytest.CaptureFixture[str], seeds: range
) -> None:
    """Damage a file in several ways, and let the program read each."""
    for seed in seeds:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(good, path)
        (damaged,) = path.glob(file)
        damaged.write_bytes(damage(damaged.read_bytes(), damaged.suffix, random.Random(seed)))
        manifest = damaged.with_name("manifest.json")
        if manifest.is_file() and damaged != manifest:
            vouch(manifest, damaged)
        threads = torch.get_num_threads()
        try:
            status = main(calls(path)[file])
        finally:
            torch.set_num_threads(threads)
        errors = capsys.readouterr().err
        assert status in (0, 2), (seed, status)
        assert "Traceback" not in errors, (seed, errors)
        if status:
            told = [line for line in errors.splitlines() if line.startswith("trainer: error: ")]
            assert len(told) == 1, (seed, errors)
            assert names(told[0], damaged), (seed, told)


def names(told: str, damaged: Path) -> bool:
    """Whether an error names a file, or what differs where the file is as it should be.

    Whether a step is one is up to its manifest, so that an error about it names the step.
    """
    differs = ("was begun with another recipe", "is no step of this recipe", "changed since")
    named = [damaged.name, *([damaged.parent.name] if damaged.name == "manifest.json" else [])]
    return any(words in told for words in (*named, *differs))


def test_a_damaged_cache_of_tokens_is_made_again(good: Path, tmp_path: Path) -> None:
    """The run goes on bit for bit as over the whole one."""
    weights = []
    for index, name in enumerate((None, "train.bin", "validation.bin", "meta.json")):
        path = tmp_path / str(index)
        shutil.copytree(good, path)
        if name is not None:
            (file,) = (path / "volume/.cache/tokens").glob(f"*/{name}")
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        train_toy(path / "volume", last_step=8)
        weights.append(tensors_of(path / "volume"))
    for other in weights[1:]:
        assert other.keys() == weights[0].keys()
        assert all(torch.equal(other[one], weights[0][one]) for one in other)


@pytest.mark.parametrize("name", ["toy", "toy@5", "toy@latest", "toy@best"])
def test_an_export_of_a_damaged_step_says_what_is_damaged(
    name: str, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(good, tmp_path / "v")
    volume = tmp_path / "v/volume"
    weights = volume / "toy/step-00000005/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    for step in (volume / "toy").glob("step-*"):
        if step != weights.parent:
            shutil.rmtree(step)
    out = ["--output", str(tmp_path / "out"), "--measure-tokens", "0"]
    assert main(["export", name, "--volume", str(volume), "--format", "hf", *out]) == 2
    errors = capsys.readouterr().err
    assert "model.safetensors: " in errors
    assert "bytes, the manifest says" in errors

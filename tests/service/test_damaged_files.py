"""The service over files that hold what nobody expects: refused or read, never a traceback."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from serving import LiveService, toy_settings
from toy_run import train_toy
from toys import publish_toy
from toys.odd_content import damage, vouch

from lm.volume import VolumeError
from lm.volume.read import read_step
from service.__main__ import main
from service.models.kernels.backend import BackendOptions
from service.models.loading.loader import Loader, LoaderOptions
from service.models.refused import CheckpointRefused
from service.models.run_history import METRICS_FILE, SAMPLES_FILE, Histories

SHORT, LONG = 12, 300
STEP = "toy/step-00000005"
FILES = (
    *("manifest.json", "config.json", "generation_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "model.safetensors"),
)
SECRETS = ("admin_key", "api_keys", "port", "volume", "run", "cors_origins", "log_level")
TEXTS = (b"\xff\xfe", b"\0", b"", b"\n\n", b"\xed\xa0\x80", b"9" * 5000, b"{}", "\u2028".encode())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good")
    train_toy(path, last_step=5)
    return path


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_step_is_refused_or_serves(file: str, good: Path, tmp_path: Path) -> None:
    load_all(file, good, tmp_path, range(SHORT))


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_much_damage_to_a_step_is_refused_or_serves(file: str, good: Path, tmp_path: Path) -> None:
    load_all(file, good, tmp_path, range(SHORT, LONG))


def load_all(file: str, good: Path, path: Path, seeds: range) -> None:
    """Damage a file of a step in several ways, and load each."""
    backend = BackendOptions(
        device=torch.device("cpu"), dtype="float32", num_slots=1, max_step_tokens=16
    )
    loader = Loader(LoaderOptions(backend=backend, max_model_tokens=None, verify_hashes=True))
    for seed in seeds:
        step = path / str(seed) / STEP
        shutil.copytree(good / STEP, step)
        damaged = step / file
        damaged.write_bytes(damage(damaged.read_bytes(), damaged.suffix, random.Random(seed)))
        if file != "manifest.json":
            vouch(step / "manifest.json", damaged)
        error = refusal(loader, step)
        if error is not None:
            assert str(error).strip(), seed
            assert "\n" not in str(error), (seed, error)
        if isinstance(error, VolumeError):
            assert STEP in str(error), (seed, error)
        shutil.rmtree(path / str(seed))


def refusal(loader: Loader, step: Path) -> ValueError | None:
    """Why a step is not served; anything else that is raised is a fault."""
    try:
        loader.load(read_step(step))
    except (VolumeError, CheckpointRefused) as error:
        return error
    return None


@pytest.mark.parametrize("file", [METRICS_FILE, SAMPLES_FILE])
def test_a_damaged_journal_is_read_as_far_as_it_is_one(
    file: str, good: Path, tmp_path: Path
) -> None:
    lines = (good / "toy" / file).read_bytes().splitlines()
    for seed in range(200):
        chance = random.Random(seed)
        changed = [
            damage(line, ".json", chance) if chance.random() < 0.3 else line for line in lines
        ]
        (tmp_path / file).write_bytes(b"\n".join(changed) + b"\n")
        read = Histories().read(tmp_path)
        assert len(read.training) + len(read.samples) <= len(lines)
        json.dumps([vars(read)], default=vars, allow_nan=False)


def test_a_service_starts_over_a_volume_of_damaged_steps(good: Path, tmp_path: Path) -> None:
    for number, file in enumerate(FILES, start=6):
        step = tmp_path / f"toy/step-{number:08}"
        publish_toy(tmp_path, "toy", number)
        damaged = step / file
        damaged.write_bytes(damaged.read_bytes()[:-9])
    with LiveService(toy_settings(tmp_path)) as service:
        assert service.client.get("/healthz").status_code == 200
        assert service.client.get("/readyz").status_code == 503
        publish_toy(tmp_path, "toy", 99)
        service.wait_ready()


@pytest.mark.parametrize("name", SECRETS)
def test_a_file_of_a_setting_that_makes_no_sense_is_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"nestling_{name}"
    volume = [] if name == "volume" else ["--volume", str(tmp_path / "none")]
    for text in TEXTS:
        file.write_bytes(text)
        status = main(["settings", "--secrets-dir", str(tmp_path), *volume])
        told = capsys.readouterr().err
        assert status in (0, 2), (text, told)
        if status:
            assert told.count("\n") == 1, (text, told)
            assert str(file) in told, (text, told)
    file.unlink()
    file.mkdir()
    assert main(["settings", "--secrets-dir", str(tmp_path), *volume]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err

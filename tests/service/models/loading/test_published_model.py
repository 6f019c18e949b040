"""``--model``: a Hugging Face model, here or on the Hub, served with no trainer and no volume."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import HubStandIn, Repo, point_at
from serving.process import ROOT, ServiceProcess
from toys import publish_toy, toy_config, toy_tokenizer, toy_weights

from lm.volume import model_files, newest_step
from service.models.loading.published_model import publish_model, with_volume
from service.settings.schema import Settings

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as stand_in:
        yield stand_in


def hub_at(url: str, home: Path) -> dict[str, str]:
    """Environment of a process whose Hub is at this address, with nothing kept from before."""
    return {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": ""}


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "Mine-135M"
    directory.mkdir()
    for name, write in model_files(toy_weights(), toy_config(), toy_tokenizer()).items():
        write(directory / name)
    return directory


def test_a_directory_becomes_the_one_step_of_a_volume_that_ends_with_the_service(
    model_dir: Path,
) -> None:
    with with_volume(Settings(model=str(model_dir))) as settings:
        step = newest_step(settings.volume / "Mine-135M")
        assert step is not None
        assert settings.run == "Mine-135M"
        assert step.manifest.details.versions == {"imported_from": str(model_dir)}
    assert not settings.volume.exists()


def test_a_model_of_the_hub_is_downloaded(
    monkeypatch: pytest.MonkeyPatch, model_dir: Path, tmp_path: Path
) -> None:
    with HubStandIn() as hub:
        point_at(hub.url, monkeypatch, tmp_path / "cache")
        huggingface_hub.HfApi().create_repo("me/toy")
        files = {path.name: path.read_bytes() for path in model_dir.iterdir()}
        hub.repos["me/toy"].commit(files | {"notes.txt": b"not wanted"})
        step = publish_model("hub:me/toy", tmp_path / "volume")
    assert step.name == "toy@0"
    wanted = publish_toy(tmp_path / "other", "toy", 0)
    entry = "model.safetensors"
    assert step.manifest.files[entry] == wanted.manifest.files[entry]
    assert not list((tmp_path / "cache").rglob("notes.txt"))


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    point_at("http://127.0.0.1:9", monkeypatch, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"hub:me/toy cannot be had .*try again online") as error:
        publish_model("hub:me/toy", tmp_path)
    assert "\n" not in str(error.value)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a directory nor hub:OWNER/NAME"):
        publish_model(str(tmp_path / "nothing"), tmp_path)


def test_a_volume_beside_it_is_refused(model_dir: Path, tmp_path: Path) -> None:
    settings = Settings(model=str(model_dir), volume=tmp_path)
    with pytest.raises(ValueError, match="leave out volume"), with_volume(settings):
        pass


def test_no_model_leaves_the_settings_as_they_are(tmp_path: Path) -> None:
    settings = Settings(volume=tmp_path)
    with with_volume(settings) as same:
        assert same is settings


def test_the_service_serves_it(model_dir: Path) -> None:
    with ServiceProcess(None, model=model_dir) as service:
        service.wait_serving("Mine-135M@0")
        answer = service.client.post("/generate", json={"prompt": "To be", "max_new_tokens": 3})
        assert answer.json()["usage"]["completion_tokens"] == 3


def answer(service: ServiceProcess) -> str:
    """The likeliest text, as far as a toy goes on."""
    asked = {"prompt": "To be", "max_new_tokens": 40, "temperature": 0.0}
    text: str = service.client.post("/generate", json=asked).raise_for_status().json()["text"]
    return text


def test_the_service_serves_the_hub_s_as_it_serves_the_same_directory(
    hub: HubStandIn, model_dir: Path, tmp_path: Path
) -> None:
    hub.repos["me/toy"] = Repo(private=False)
    hub.repos["me/toy"].commit({path.name: path.read_bytes() for path in model_dir.iterdir()})
    environment = hub_at(hub.url, tmp_path / "home")
    with ServiceProcess(None, model="hub:me/toy", environment=environment) as service:
        service.wait_serving("toy@0")
        from_hub = answer(service)
    with ServiceProcess(None, model=model_dir) as service:
        service.wait_serving("Mine-135M@0")
        assert from_hub == answer(service)
    assert len(from_hub) > 10


def test_the_service_ends_with_one_line_where_the_hub_cannot_be_reached(tmp_path: Path) -> None:
    environment = os.environ | hub_at("http://127.0.0.1:9", tmp_path / "home")
    command = [sys.executable, "-m", "service", "--port=0", "--model=hub:me/toy"]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("service: hub:me/toy cannot be had (")
    assert ended.stderr.count("\n") == 1

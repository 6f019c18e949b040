from pathlib import Path

import pytest

from lm.huggingface import hub
from lm.huggingface.directory import FILES
from trainer.convert.importing.source import carries_config, default_run, read_source


def test_a_directory_is_read(model_dir: Path) -> None:
    assert read_source(str(model_dir)).config.hidden_size == 32


def test_a_hub_id_is_downloaded_and_read(monkeypatch: pytest.MonkeyPatch, model_dir: Path) -> None:
    asked: list[object] = []
    monkeypatch.setattr(hub, "download", lambda *call: asked.append(call) or model_dir)
    assert read_source("hub:owner/name").config.hidden_size == 32
    assert asked == [("hub:owner/name", FILES)]


def test_anything_else_is_refused(tmp_path: Path) -> None:
    for source in (str(tmp_path / "absent"), "owner/name"):
        with pytest.raises(ValueError, match=r"neither a directory, hub:.* \.gguf, \.pt"):
            read_source(source)


@pytest.mark.parametrize(
    ("source", "run"),
    [
        ("hub:HuggingFaceTB/SmolLM2-135M", "SmolLM2-135M"),
        ("weights/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_1"),
        ("/models/Mine-1.5/", "Mine-1.5"),
        ("runs/checkpoint_step_5000.pt", "checkpoint_step_5000"),
        ("/models/My model (2).gguf", "My-model-2"),
        ("/volume/tiny/step-00000500", "run-step-00000500"),
        ("/models/.hidden", "hidden"),
        ("/models/" + "x" * 120, "x" * 100),
        ("/models/???", "run"),
    ],
)
def test_a_run_bears_its_source_s_name(source: str, run: str) -> None:
    assert default_run(source) == run


def test_a_file_without_a_config_needs_a_description(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="carries no config; give the --recipe"):
        read_source(str(tmp_path / "checkpoint.pt"))


def test_a_directory_may_have_any_name(tmp_path: Path, model_dir: Path) -> None:
    named = model_dir.rename(tmp_path / "mine.pt")
    assert carries_config(str(named))
    assert read_source(str(named)).config.hidden_size == 32

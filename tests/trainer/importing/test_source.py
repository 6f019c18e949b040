from pathlib import Path

import pytest

from trainer import hub
from trainer.importing.directory import FILES
from trainer.importing.source import default_run, read_source


def test_a_directory_is_read(model_dir: Path) -> None:
    assert read_source(str(model_dir)).config.hidden_size == 32


def test_a_hub_id_is_downloaded_and_read(monkeypatch: pytest.MonkeyPatch, model_dir: Path) -> None:
    asked: list[object] = []
    monkeypatch.setattr(hub, "download", lambda *call: asked.append(call) or model_dir)
    assert read_source("hub:owner/name").config.hidden_size == 32
    assert asked == [("hub:owner/name", FILES)]


def test_anything_else_is_refused(tmp_path: Path) -> None:
    for source in (str(tmp_path / "absent"), "owner/name"):
        with pytest.raises(ValueError, match=r"neither a directory, a \.gguf file nor hub:"):
            read_source(source)


@pytest.mark.parametrize(
    ("source", "run"),
    [
        ("hub:HuggingFaceTB/SmolLM2-135M", "SmolLM2-135M"),
        ("weights/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_1"),
        ("/models/Mine-1.5/", "Mine-1.5"),
    ],
)
def test_a_run_bears_its_source_s_name(source: str, run: str) -> None:
    assert default_run(source) == run

from pathlib import Path

import pytest

from lm.huggingface import hub

huggingface_hub = pytest.importorskip("huggingface_hub")


def test_a_malformed_name_is_refused() -> None:
    with pytest.raises(ValueError, match="not of the form hub:OWNER/NAME"):
        hub.download("hub:name", ["*.json"])


def test_a_machine_without_the_hub_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no route to host\nlong explanation")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match=r"cannot be had \(no route to host\)") as error:
        hub.download("hub:owner/name", ["*.json"])
    assert "\n" not in str(error.value)


def test_the_matching_files_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def snapshot(repository: str, allow_patterns: list[str]) -> str:
        assert (repository, allow_patterns) == ("owner/name", ["tokenizer.json"])
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert hub.download("hub:owner/name", ["tokenizer.json"]) == tmp_path

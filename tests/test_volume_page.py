"""The reader that the specification shows reads what ours reads, and refuses what ours refuses."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from toys import publish_toy, toy_training_state
from toys.damage import HIDDEN, ODD, VISIBLE

from lm.volume import MANIFEST_FILE, Retention, load_weights, newest_step, prune

PAGE = Path(__file__).parent.parent / "docs" / "volume.md"


@pytest.fixture(scope="module")
def reader() -> dict[str, Any]:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.M)
    names: dict[str, Any] = {}
    exec(compile(program, str(PAGE), "exec"), names)
    return names


def test_the_shown_reader_finds_the_newest_step_and_its_fingerprint(
    reader: dict[str, Any], tmp_path: Path
) -> None:
    for step in (3, 20):
        publish_toy(tmp_path, "toy", step, extra_files=toy_training_state(), resumable=True)
    newest = newest_step(tmp_path / "toy")
    assert newest is not None
    number, manifest, fingerprint, contents = reader["newest_complete"](tmp_path / "toy")
    assert (number, fingerprint) == (20, newest.manifest.fingerprint)
    assert manifest["details"]["metrics"] == newest.manifest.details.metrics
    assert len(contents["model.safetensors"]) == newest.manifest.files["model.safetensors"].size
    assert load_weights(newest)
    for step in (21, 22):
        publish_toy(tmp_path, "toy", step)
    prune(tmp_path / "toy", Retention(keep_last=2, keep_steps=(20,)))
    _, milestone, _ = reader["read_step"](tmp_path / "toy" / "step-00000020", 20)[:3]
    assert milestone == fingerprint, "a milestone is the same step"


@pytest.mark.parametrize("kind", [kind for kind in VISIBLE | HIDDEN if kind not in ODD])
def test_the_shown_reader_refuses_what_ours_refuses(
    reader: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    publish_toy(tmp_path / "volume", "toy", 1)
    damage, _ = (VISIBLE | HIDDEN)[kind]
    damage(publish_toy(tmp_path / "volume", "toy", 2).path)
    assert reader["newest_complete"](tmp_path / "volume" / "toy")[0] == 1


def test_the_page_names_every_field_of_a_manifest(tmp_path: Path) -> None:
    page = PAGE.read_text("utf-8")
    step = publish_toy(tmp_path, "toy", 1)
    values = json.loads((step.path / MANIFEST_FILE).read_text())
    fields = [*(set(values) - {"details"}), *(f"details.{name}" for name in values["details"])]
    assert [field for field in fields if f"`{field}`" not in page] == []

"""Ways in which a step on disk can be broken, and what a reader must say to each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm.volume import MANIFEST_FILE, StepDamaged, UnknownFormat, VolumeError

WEIGHTS = "model.safetensors"

Damage = Callable[[Path], object]
"""Breaks the step in this directory."""


def edit_manifest(step: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a step's manifest with a change to its parsed content."""
    file = step / MANIFEST_FILE
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def flip_byte(step: Path) -> None:
    """Change one bit of the last weight: no size and no header tells."""
    content = bytearray((step / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (step / WEIGHTS).write_bytes(content)


def truncate(step: Path) -> None:
    """Lose the last byte of the weights."""
    content = (step / WEIGHTS).read_bytes()
    (step / WEIGHTS).write_bytes(content[:-1])


def grow(step: Path) -> None:
    """Gain a byte that changes nothing of what the file says."""
    (step / "config.json").write_text((step / "config.json").read_text() + " ")


def name_a_file(name: str) -> Damage:
    """Let the manifest list another file, which would be there with this size and these bytes."""

    def listed_too(values: dict[str, Any]) -> None:
        values["files"][name] = values["files"]["config.json"]

    return lambda step: edit_manifest(step, listed_too)


def replace_by_link(step: Path) -> None:
    """Keep the weights outside of the volume, where somebody else may change them."""
    outside = step.parent.parent.parent / "outside.safetensors"
    shutil.move(step / WEIGHTS, outside)
    (step / WEIGHTS).symlink_to(outside)


def replace_by_link_of_the_same_size(step: Path) -> None:
    """A link as long as its file: slashes in a path can be repeated at will."""
    outside = step.parent.parent.parent / "outside.json"
    size = (step / "config.json").stat().st_size
    shutil.move(step / "config.json", outside)
    slashes = "/" * (size - len(str(outside.parent)) - len(outside.name))
    (step / "config.json").symlink_to(f"{outside.parent}{slashes}{outside.name}")
    assert (step / "config.json").lstat().st_size == size


def replace_by_directory(step: Path) -> None:
    """Put a directory where the weights should be."""
    (step / WEIGHTS).unlink()
    (step / WEIGHTS).mkdir()


def empty_directory(step: Path) -> None:
    """Leave a directory that is named like a step and never completes."""
    shutil.rmtree(step)
    step.mkdir()


VISIBLE: dict[str, tuple[Damage, type[VolumeError]]] = {
    "truncated file": (truncate, StepDamaged),
    "0-byte file": (lambda step: (step / WEIGHTS).write_bytes(b""), StepDamaged),
    "grown file": (grow, StepDamaged),
    "missing file": (lambda step: (step / WEIGHTS).unlink(), StepDamaged),
    "file that is a link": (replace_by_link, StepDamaged),
    "file that is a link of its size": (replace_by_link_of_the_same_size, StepDamaged),
    "file that is a directory": (replace_by_directory, StepDamaged),
    "missing manifest": (lambda step: (step / MANIFEST_FILE).unlink(), StepDamaged),
    "empty manifest": (lambda step: (step / MANIFEST_FILE).write_bytes(b""), StepDamaged),
    "half a manifest": (
        lambda step: (step / MANIFEST_FILE).write_bytes((step / MANIFEST_FILE).read_bytes()[:200]),
        StepDamaged,
    ),
    "manifest that is a list": (
        lambda step: (step / MANIFEST_FILE).write_text("[1]"),
        StepDamaged,
    ),
    "manifest that is a directory": (
        lambda step: [(step / MANIFEST_FILE).unlink(), (step / MANIFEST_FILE).mkdir()],
        StepDamaged,
    ),
    "manifest of the future": (
        lambda step: edit_manifest(step, lambda values: values.update(format_version=2)),
        UnknownFormat,
    ),
    "manifest of another step": (
        lambda step: edit_manifest(step, lambda values: values.update(step=77)),
        StepDamaged,
    ),
    "manifest with an endless step": (
        lambda step: edit_manifest(step, lambda values: values.update(step=float("inf"))),
        StepDamaged,
    ),
    "name that leaves the step": (
        name_a_file("../step-00000001/config.json"),
        StepDamaged,
    ),
    "absolute name": (name_a_file("/etc/hostname"), StepDamaged),
    "name of a subdirectory": (name_a_file("onnx/config.json"), StepDamaged),
    "name of the step itself": (name_a_file("."), StepDamaged),
    "name of the run": (name_a_file(".."), StepDamaged),
    "empty name": (name_a_file(""), StepDamaged),
    "name with a zero byte": (name_a_file("config\0.json"), StepDamaged),
    "name that is no unicode": (name_a_file("config\udcff\ud800.json"), StepDamaged),
    "name too long": (name_a_file("x" * 300), StepDamaged),
    "empty directory": (empty_directory, StepDamaged),
}
"""What a manifest and sizes alone give away: such a step is no step for a reader."""

HIDDEN: dict[str, tuple[Damage, type[VolumeError]]] = {
    "flipped byte": (flip_byte, StepDamaged),
}
"""What only hashes give away."""

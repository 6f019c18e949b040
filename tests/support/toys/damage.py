"""Ways in which a step on disk can be broken, and what a reader must say to each."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm.volume import MANIFEST_FILE, StepDamaged, UnknownFormat, VolumeError

WEIGHTS = "model.safetensors"
SPARSE_BYTES = 8 << 40

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


def replace_by(make: Callable[[Path], object], name: str = MANIFEST_FILE) -> Damage:
    """Put something else where a file was."""

    def replace(step: Path) -> None:
        (step / name).unlink()
        make(step / name)

    return replace


def socket_at(path: Path) -> None:
    """Leave a socket's entry, whose other end is gone."""
    here = os.open(path.parent, os.O_RDONLY)  # a path of a socket has 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


def sparse_at(path: Path) -> None:
    """A file that states eight terabytes and takes no room."""
    path.touch()
    os.truncate(path, SPARSE_BYTES)


def list_sparse_weights(step: Path) -> None:
    """Weights of eight terabytes, which the manifest lists as such."""
    os.truncate(step / WEIGHTS, SPARSE_BYTES)
    edit_manifest(step, lambda values: values["files"][WEIGHTS].update(size=SPARSE_BYTES))


def list_sparse_config(step: Path) -> None:
    """A config of eight terabytes, which the manifest lists as such."""
    os.truncate(step / "config.json", SPARSE_BYTES)
    edit_manifest(step, lambda values: values["files"]["config.json"].update(size=SPARSE_BYTES))


def say(**changes: Any) -> Damage:
    """Change fields of the manifest."""
    return lambda step: edit_manifest(step, lambda values: values.update(changes))


def say_in_details(**changes: Any) -> Damage:
    """Change fields of the manifest's details."""
    return lambda step: edit_manifest(step, lambda values: values["details"].update(changes))


def replace_by_directory(step: Path) -> None:
    """Put a directory where the weights should be."""
    (step / WEIGHTS).unlink()
    (step / WEIGHTS).mkdir()


def empty_directory(step: Path) -> None:
    """Leave a directory that is named like a step and never completes."""
    shutil.rmtree(step)
    step.mkdir()


ODD: dict[str, tuple[Damage, type[VolumeError]]] = {
    "time in year 1": (say(created_at="0001-01-01T00:00:00"), StepDamaged),
    "time in year 1 with an offset": (say(created_at="0001-01-01T00:00:00+23:59"), StepDamaged),
    "time that is a number": (say(created_at=10**400), StepDamaged),
    "flag with a lone surrogate": (say_in_details(flags=["\ud800"]), StepDamaged),
    "flag that is a number": (say_in_details(flags=[1]), StepDamaged),
    "version with a lone surrogate": (say_in_details(versions={"a": "\udc80"}), StepDamaged),
    "metric with a lone surrogate": (say_in_details(metrics={"\ud800": 1.0}), StepDamaged),
    "metric that is not finite": (say_in_details(metrics={"val_loss": float("nan")}), StepDamaged),
    "metric of 400 digits": (say_in_details(metrics={"val_loss": 10**400}), StepDamaged),
    "fingerprint that is a list": (say_in_details(tokenizer_fingerprint=[]), StepDamaged),
}
"""Values of a manifest that no writer gives, and that lists of steps could not be written with."""

VISIBLE: dict[str, tuple[Damage, type[VolumeError]]] = {
    **ODD,
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
    "manifest that is a pipe": (replace_by(os.mkfifo), StepDamaged),
    "manifest that is a socket": (replace_by(socket_at), StepDamaged),
    "manifest that is a device by a link": (
        replace_by(lambda path: path.symlink_to("/dev/zero")),
        StepDamaged,
    ),
    "manifest that leads nowhere": (
        replace_by(lambda path: path.symlink_to("nowhere")),
        StepDamaged,
    ),
    "manifest that leads to itself": (
        replace_by(lambda path: path.symlink_to(path.name)),
        StepDamaged,
    ),
    "manifest of eight terabytes": (replace_by(sparse_at), StepDamaged),
    "weights that are a pipe": (replace_by(os.mkfifo, WEIGHTS), StepDamaged),
    "weights that are a socket": (replace_by(socket_at, WEIGHTS), StepDamaged),
    "weights that are listed with eight terabytes": (list_sparse_weights, StepDamaged),
    "config that is a pipe": (replace_by(os.mkfifo, "config.json"), StepDamaged),
    "config that is listed with eight terabytes": (list_sparse_config, StepDamaged),
    "manifest of another run": (say(run="another"), StepDamaged),
    "manifest of a run with a line break": (say(run="run\n"), StepDamaged),
    "manifest of a run that is a number": (say(run=7), StepDamaged),
}
"""What a manifest and sizes alone give away: such a step is no step for a reader."""

HIDDEN: dict[str, tuple[Damage, type[VolumeError]]] = {
    "flipped byte": (flip_byte, StepDamaged),
}
"""What only hashes give away."""

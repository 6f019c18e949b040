"""Steps that must not be served, by what is wrong with them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from toys import publish_toy, toy_weights

from lm.volume import Step
from lm.volume.publish import TextFile

RUN = "toy"


def publish_nan(volume: Path, step: int) -> Step:
    """One weight is no number."""
    weights = toy_weights(0)
    weights["model.norm.weight"][0] = torch.nan
    return publish_toy(volume, RUN, step, weights=weights)


def change_tokenizer(volume: Path, step: int) -> Step:
    """The tokenizer is not the one that the model was trained with."""
    return publish_toy(volume, RUN, step, tokenizer_fingerprint="0" * 64)


def break_config(volume: Path, step: int) -> Step:
    """A file that is what the manifest says, and is no config."""
    return publish_toy(volume, RUN, step, extra_files={"config.json": TextFile("[]")})


def write_future(volume: Path, step: int) -> Step:
    """The format is one that this program does not know."""

    def damage(path: Path) -> None:
        manifest = path / "manifest.json"
        text = manifest.read_text()
        manifest.write_text(text.replace('"format_version": 1', '"format_version": 9'))

    return _publish_damaged(volume, step, damage)


def truncate(volume: Path, step: int) -> Step:
    """The weights are cut short."""
    return _publish_damaged(
        volume, step, lambda path: os.truncate(path / "model.safetensors", 1000)
    )


def flip_byte(volume: Path, step: int) -> Step:
    """One bit of one weight is another."""

    def damage(path: Path) -> None:
        weights = path / "model.safetensors"
        content = weights.read_bytes()
        weights.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])

    return _publish_damaged(volume, step, damage)


def empty(volume: Path, step: int) -> Step:
    """The weights have no byte, as after a power cut on a store that does not sync."""
    return _publish_damaged(volume, step, lambda path: os.truncate(path / "model.safetensors", 0))


def link_out(volume: Path, step: int) -> Step:
    """The weights are a link to a file outside of the volume, with the right bytes."""

    def damage(path: Path) -> None:
        outside = volume.parent / f"outside-{step}.safetensors"
        shutil.move(path / "model.safetensors", outside)
        (path / "model.safetensors").symlink_to(outside)

    return _publish_damaged(volume, step, damage)


def _publish_damaged(volume: Path, step: int, damage: Callable[[Path], None]) -> Step:
    """Damage a step out of sight, so that no watcher sees it whole."""
    published = publish_toy(volume / ".draft", RUN, step)
    damage(published.path)
    (volume / RUN).mkdir(parents=True, exist_ok=True)
    path = published.path.rename(volume / RUN / published.path.name)
    shutil.rmtree(volume / ".draft")
    return Step(path, published.manifest)


BAD_STEPS: dict[str, tuple[str, Callable[[Path, int], Step]]] = {
    "a weight that is no number": ("weights_not_finite", publish_nan),
    "a manifest of the future": ("unknown_format", write_future),
    "a flipped byte": ("damaged", flip_byte),
    "truncated weights": ("damaged", truncate),
    "an empty file": ("damaged", empty),
    "a link out of the volume": ("damaged", link_out),
    "a config that is none": ("damaged", break_config),
    "another tokenizer": ("tokenizer", change_tokenizer),
}
"""The reason that the service gives, and what publishes such a step to a run named ``toy``."""

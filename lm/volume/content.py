"""What is inside a step: a Hugging Face model directory, written and read.

Weights are read once into memory of our own and hashed there: a file that is truncated or
vanishes later cannot reach a serving process.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from lm.huggingface.config import from_hf, to_hf
from lm.model.config import ModelConfig
from lm.plain_file import open_plain, read_bounded
from lm.side_files import SideFiles
from lm.text.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, Tokenizer
from lm.trial import Refused, read_tried
from lm.volume.errors import StepDamaged, StepUnreadable
from lm.volume.manifest import TRAINING_STATE_PREFIX as _STATE
from lm.volume.publish import TextFile, Writer
from lm.volume.read import OpenFile, Step, unreadable

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
TIED_HEAD = "lm_head.weight"


def model_files(
    weights: Mapping[str, Tensor], config: ModelConfig, tokenizer: Tokenizer
) -> dict[str, Writer]:
    """Writers of a Hugging Face model directory.

    Args:
        weights: CPU tensors by their published names; a tied head is left out. They must not
            change until the writers have run.
        config: written as ``config.json``.
        tokenizer: written beside it, with its end tokens in ``generation_config.json``.

    """
    stored = {
        name: tensor.contiguous()
        for name, tensor in weights.items()
        if not (config.tie_word_embeddings and name == TIED_HEAD)
    }
    dtype = str(next(iter(stored.values())).dtype).removeprefix("torch.")
    return {
        WEIGHTS_FILE: functools.partial(_write_weights, stored),
        CONFIG_FILE: TextFile(_json(to_hf(config, dtype=dtype) | tokenizer.named_ids)),
        GENERATION_CONFIG_FILE: TextFile(tokenizer.generation_json()),
        TOKENIZER_FILE: TextFile(tokenizer.backend.to_str(pretty=True)),
        TOKENIZER_CONFIG_FILE: TextFile(tokenizer.config_json()),
    }


def load_weights(
    step: Step, *, check_hash: bool = True, open_file: OpenFile = open_plain
) -> dict[str, Tensor]:
    """CPU tensors of a step by name, copied from the volume.

    Raises what ``read_file`` raises, and ``StepDamaged`` if the file is no safetensors.
    """
    content = read_file(step, WEIGHTS_FILE, check_hash=check_hash, open_file=open_file)
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError) as error:
        raise StepDamaged(f"{step.path / WEIGHTS_FILE}: {error}") from error


def load_side_files(
    step: Step, *, check_hash: bool = True, open_file: OpenFile = open_plain
) -> SideFiles:
    """Everything that the manifest lists but weights and training state, in the bytes compared.

    Raises what ``read_file`` raises.
    """
    names = (n for n in step.manifest.files if n != WEIGHTS_FILE and not n.startswith(_STATE))
    contents = {
        name: read_file(step, name, check_hash=check_hash, open_file=open_file) for name in names
    }
    return SideFiles.given(step.path, contents)


def load_tokenizer(step: Step, files: SideFiles | None = None) -> Tokenizer:
    """The step's tokenizer, of listed files alone, tried out in a process of its own.

    Raises ``StepDamaged`` if it cannot be read, ``Refused`` if it or its template does too much.

    ``files`` are what ``load_side_files`` gave, where that was read before.
    """
    files = files or load_side_files(step)
    if files.read(TOKENIZER_FILE) is None:
        raise StepDamaged(f"{step.path}: no tokenizer: the manifest lists no {TOKENIZER_FILE}")
    try:
        return read_tried(files)
    except Refused:
        raise
    except OSError as error:
        raise StepUnreadable(f"{step.path}: {error}") from error
    except ValueError as error:
        raise StepDamaged(str(error)) from error


def load_model_config(step: Step, files: SideFiles | None = None) -> ModelConfig:
    """The step's architecture; raises ``StepDamaged`` if config and manifest differ.

    ``files`` are what ``load_side_files`` gave, where that was read before.
    """
    content = None if files is None else files.read(CONFIG_FILE)
    if content is None:
        content = read_file(step, CONFIG_FILE)
    try:
        config = from_hf(json.loads(content))
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise StepDamaged(f"{step.path / CONFIG_FILE}: {error}") from error
    if _function(config) != _function(step.manifest.details.model_config):
        raise StepDamaged(f"{step.path}: {CONFIG_FILE} and the manifest describe different models")
    return config


def read_file(
    step: Step, name: str, *, check_hash: bool = True, open_file: OpenFile = open_plain
) -> bytes:
    """Bytes of one file that the manifest lists, no more than it states.

    Raises ``StepDamaged`` if they are not those of the manifest, ``StepVanished`` if the step is
    being pruned, ``StepUnreadable`` if the file cannot be read just now.
    """
    path, entry = step.path / name, step.manifest.files.get(name)
    if entry is None:
        raise StepDamaged(f"{path}: not in the manifest")
    try:
        with open_file(path) as file:
            content = read_bounded(file, entry.size, path)
    except OSError as error:
        raise unreadable(step.path, name, error) from error
    if len(content) != entry.size:
        raise StepDamaged(f"{path}: {len(content)} bytes, not what the manifest says")
    if check_hash and hashlib.sha256(content).hexdigest() != entry.sha256:
        raise StepDamaged(f"{path}: SHA-256 differs from the manifest")
    return content


def _write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    try:
        safetensors.torch.save_file(dict(weights), path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:  # how the library reports a full disk
        raise OSError(f"{path}: {error}") from error


def _function(config: ModelConfig) -> ModelConfig:
    """The config without what only training reads and ``config.json`` does not keep."""
    return dataclasses.replace(config, dropout=0.0, initializer_range=None)


def _json(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=2) + "\n"

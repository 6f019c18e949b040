"""A Hugging Face model directory: ``config.json``, safetensors whole or in shards, tokenizer."""

from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from lm.foreign.model import Foreign, read_json
from lm.hf_config import from_hf
from lm.tokenizer import Tokenizer

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FILES = ("*.json", "*.safetensors", "*.jinja")
"""What of a Hub repository is needed."""


def read_directory(directory: Path) -> Foreign:
    """Read a model; raises ``ValueError`` by name for what is missing or not supported."""
    config = from_hf(read_json(directory / "config.json"))
    return Foreign.checked(config, _read_weights(directory), Tokenizer.load(directory))


def _read_weights(directory: Path) -> dict[str, Tensor]:
    """Tensors of the one file, or of every shard that the index names."""
    if (directory / WEIGHTS_FILE).is_file():
        return _read_file(directory / WEIGHTS_FILE)
    if not (directory / INDEX_FILE).is_file():
        raise ValueError(f"{directory}: neither {WEIGHTS_FILE} nor {INDEX_FILE}")
    shard_of = read_json(directory / INDEX_FILE).get("weight_map")
    if not isinstance(shard_of, dict):
        raise ValueError(f"{directory / INDEX_FILE}: no weight_map")
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(shard_of.values())):
        if Path(shard).name != shard:
            raise ValueError(f"{directory / INDEX_FILE}: shard {shard!r} is not a plain file name")
        weights |= _read_file(directory / shard)
    if missing := shard_of.keys() - weights.keys():
        raise ValueError(f"{directory}: the shards lack {min(missing)}")
    return weights


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: not safetensors: {error}") from error

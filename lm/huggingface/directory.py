"""A Hugging Face model directory: ``config.json``, tokenizer, and weights whole or in shards.

Weights are safetensors, or the older ``pytorch_model.bin``, of which nothing is run.
"""

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lm.huggingface import hub
from lm.huggingface.config import from_hf
from lm.huggingface.model import Foreign, read_json
from lm.huggingface.torch_save import load_pickled
from lm.side_files import SideFiles
from lm.text.tokenizer import Tokenizer
from lm.trial import load_tried

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLED_FILE = "pytorch_model.bin"
OTHER_TEMPLATES = "additional_chat_templates/*.jinja"
PICKLED_INDEX_FILE = "pytorch_model.bin.index.json"
FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", OTHER_TEMPLATES)
"""What of a Hub repository is needed."""
OLDER_FILES = (*FILES, "pytorch_model*.bin")
"""What is needed where there are no safetensors."""


def fetch(source: str) -> Path:
    """Directory with a Hub repository's model; raises ``ValueError`` if it cannot be had."""
    directory = hub.download(source, FILES)
    if any(directory.glob("*.safetensors")):
        return directory
    return hub.download(source, OLDER_FILES)


def read_directory(directory: Path) -> Foreign:
    """Read a model; raises ``ValueError`` by path and name for what is missing or unsupported."""
    try:
        config = from_hf(read_json(directory / "config.json"))
        tokenizer = load_tried(directory)
        keep_other_templates(directory, tokenizer)
        return Foreign.checked(config, _read_weights(directory), tokenizer)
    except ValueError as error:
        said = str(error)
        if str(directory) in said:
            raise
        file = said.split(":", maxsplit=1)[0]  # most say which, and cannot know where
        joint = "/" if (directory / file).is_file() else ": "
        raise ValueError(f"{directory}{joint}{said}") from error


def keep_other_templates(directory: Path, tokenizer: Tokenizer) -> None:
    """Keep chat templates that lie in a folder of their own, for exports; chats do not use them."""
    if tokenizer.chat_template is None:
        return
    files = SideFiles.of_directory(directory)
    templates = {"default": tokenizer.chat_template}
    for path in sorted(directory.glob(OTHER_TEMPLATES)):
        text = files.text(path.relative_to(directory).as_posix())
        templates |= {} if text is None else {path.stem: text}
    if len(templates) > 1:
        tokenizer.kept["chat_template"] = [
            {"name": name, "template": template} for name, template in templates.items()
        ]


def _read_weights(directory: Path) -> dict[str, Tensor]:
    """Tensors of the one file, or of every shard that the index names."""
    for file in (WEIGHTS_FILE, INDEX_FILE, PICKLED_FILE, PICKLED_INDEX_FILE):
        if (directory / file).is_file():
            is_index = file.endswith(".json")
            return _read_shards(directory, file) if is_index else _read_file(directory / file)
    raise ValueError(f"{directory}: no {WEIGHTS_FILE}, {INDEX_FILE} or {PICKLED_FILE}")


def _read_shards(directory: Path, index: str) -> dict[str, Tensor]:
    shard_of = read_json(directory / index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(v, str) for v in shard_of.values()):
        raise ValueError(f"{directory / index}: no weight_map of names to files")
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(shard_of.values())):
        if Path(shard).name != shard:
            raise ValueError(f"{directory / index}: shard {shard!r} is not a plain file name")
        found = _read_file(directory / shard)
        # A copy in another shard than the index names counts for nothing.
        weights |= {name: found[name] for name in found if shard_of.get(name, shard) == shard}
    if missing := shard_of.keys() - weights.keys():
        raise ValueError(f"{directory}: the shards lack {min(missing)}")
    return weights


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".bin":
        return _read_pickled(path)
    try:
        return safetensors.torch.load_file(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: not safetensors: {error}") from error


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """Weights of a ``torch.save`` file, each in memory of its own, as safetensors wants it."""
    content = load_pickled(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a dict of weights")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{path}: {name!r} is a {type(value).__name__}, not a weight")
    return {
        name: content.pop(name).detach().clone(memory_format=torch.contiguous_format)
        for name in list(content)
    }

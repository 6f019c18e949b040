"""A ``torch.save`` file of somebody's training loop: which shape it has and what is taken of it.

Known are a loop's dict (``model_state_dict`` beside optimizer, scheduler, step and loss), what
Lightning saves (``state_dict`` beside much of its own), and a state dict alone. None carries a
config or a tokenizer, so the caller says what the weights are of: ``Described``. Optimizer and
scheduler states are left behind.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lm.huggingface.frequencies import check_frequencies
from lm.huggingface.model import Foreign
from lm.huggingface.torch_save import load_pickled
from lm.model.config import ModelConfig
from lm.text.tokenizer import Tokenizer
from trainer.convert.importing.kept_config import refuse_other_config
from trainer.convert.importing.layouts import as_linear
from trainer.convert.importing.names import by_our_names, is_buffer
from trainer.convert.importing.quantized import dequantized
from trainer.convert.importing.rotary import Rotary, deinterleaved, guess_rotary

SUFFIXES = (".pt", ".pth", ".ckpt")
LEFT_BEHIND = "left_behind"
"""In the manifest: what else the file held."""
_WEIGHTS = ("model_state_dict", "state_dict", "model")
_STEPS = ("step", "global_step", "iter_num")
_STEP_IN_NAME = re.compile(r"step[=_-]?(\d+)")
_LOSS = "loss"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """What the caller says of a file that does not say it."""

    config: ModelConfig
    tokenizer: Tokenizer
    rotary: Rotary | None = None
    """``None`` goes by the names of the weights."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it."""
        said = [self.config.to_dict(), self.tokenizer.fingerprint, self.rotary]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def read_checkpoint(path: Path, described: Described) -> Foreign:
    """Read a file; raises ``ValueError`` by name for what is missing, not known or not safe."""
    content = load_pickled(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a dict of weights")
    key, state = _find_weights(content)
    try:
        refuse_other_config(content, described.config)
        weights = _weights(state, described)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return dataclasses.replace(
        Foreign.checked(described.config, weights, described.tokenizer),
        step=_find_step(content, path),
        metrics=_find_loss(content),
        origin={
            "imported_sha256": _sha256(path),
            "imported_description": described.fingerprint,
            LEFT_BEHIND: _others(content, key),
        },
    )


def _find_weights(content: dict[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
    """The state dict and the key that it is under, ``None`` if it is the file's whole content."""
    for key in _WEIGHTS:
        if isinstance(content.get(key), Mapping):
            return key, content[key]
    return None, content


def _weights(state: Mapping[str, Any], described: Described) -> dict[str, Tensor]:
    """Weights by our names and in our layout."""
    plain = dequantized({str(name): value for name, value in state.items()})
    for name, value in plain.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name!r} is a {type(value).__name__}, not a weight")
    if not plain:
        raise ValueError("holds no weights")
    config = described.config
    check_frequencies(plain, config)
    theirs = {name: tensor for name, tensor in plain.items() if not is_buffer(name)}
    ours = as_linear(by_our_names(theirs), config)
    if (described.rotary or guess_rotary(theirs)) == "interleaved":
        return deinterleaved(ours, config)
    return ours


def _find_step(content: Mapping[str, Any], path: Path) -> int:
    """The step that the file gives, or its name; 0 if neither does."""
    for key in _STEPS:
        value = _plain(content.get(key))
        if isinstance(value, int) and value >= 0:
            return value
    in_name = _STEP_IN_NAME.search(path.stem)
    return int(in_name[1]) if in_name else 0


def _find_loss(content: Mapping[str, Any]) -> dict[str, float]:
    value = _plain(content.get(_LOSS))
    return {"train_loss": float(value)} if isinstance(value, int | float) else {}


def _plain(value: Any) -> Any:
    """A number that was saved as a tensor, or what there is."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _others(content: Mapping[str, Any], weights_key: str | None) -> str:
    """Names of what is not taken over."""
    if weights_key is None:
        return ""
    taken = {weights_key, _LOSS, *_STEPS}
    listed = ", ".join(str(name) for name in content if name not in taken)
    return listed.encode("utf-8", "backslashreplace").decode()  # a pickle may hold half characters


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""A model made elsewhere, in our terms, before it becomes a step."""

import dataclasses
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from lm.huggingface.frequencies import are_frequencies, check_frequencies
from lm.model.config import ModelConfig
from lm.model.decoder import Decoder
from lm.sampling_defaults import sampling_defaults
from lm.side_files import SideFiles
from lm.text.tokenizer import Tokenizer

_TIED_HEAD = "lm_head.weight"


@dataclasses.dataclass(frozen=True)
class Foreign:
    """Config, weights by published name, and tokenizer, which fit each other."""

    config: ModelConfig
    weights: Mapping[str, Tensor]
    """CPU tensors; no entry for a tied head."""
    tokenizer: Tokenizer
    step: int = 0
    """As the source counts; 0 where it does not say."""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """What the source says of itself, by the manifest's names."""
    origin: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What the manifest keeps of where it came from."""

    @classmethod
    def checked(
        cls, config: ModelConfig, weights: Mapping[str, Tensor], tokenizer: Tokenizer
    ) -> Self:
        """Leave out what the config implies; raises ``ValueError`` by name if parts do not fit."""
        kept = {
            name: tensor
            for name, tensor in weights.items()
            if not are_frequencies(name) and not (config.tie_word_embeddings and name == _TIED_HEAD)
        }
        sampling_defaults(tokenizer.generation)  # raises for one that no request could ask for
        check_frequencies(weights, config)
        _check_tied_head(config, weights)
        _check_weights(config, kept)
        named = [
            *(*tokenizer.eos_token_ids, tokenizer.bos_token_id or 0),
            *tokenizer.ids_of_generation,
            *tokenizer.encode(""),
        ]
        if max(tokenizer.num_ids - 1, *named) >= config.vocab_size:
            tokenizer = tokenizer.without_ids_from(config.vocab_size)
        return cls(config, kept, tokenizer)

    def to(self, dtype: torch.dtype) -> Self:
        """The same model with its weights in another floating-point dtype.

        Raises ``ValueError`` naming a weight that is not finite there.
        """
        weights = {name: tensor.to(dtype) for name, tensor in self.weights.items()}
        for name, weight in weights.items():
            if not bool(weight.isfinite().all()):
                raise ValueError(f"weights: {name} has values that are not finite as {dtype}")
        return dataclasses.replace(self, weights=weights)


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON object; raises ``ValueError`` if the file is missing or something else."""
    files = SideFiles.of_directory(path.parent)
    if files.read(path.name) is None:
        raise ValueError(f"{path}: {os.strerror(errno.ENOENT)}")
    return files.json_object(path.name)


def _check_tied_head(config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` if the file's head is not the embedding that it claims to be."""
    head = weights.get(_TIED_HEAD)
    if config.tie_word_embeddings and head is not None:
        embedding = weights.get("model.embed_tokens.weight")
        if embedding is None or not torch.equal(head, embedding):
            raise ValueError(
                f"tie_word_embeddings is set, but {_TIED_HEAD} differs from the embedding"
            )


def _check_weights(config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` naming the first weight that the decoder lacks or misses."""
    if config.num_hidden_layers > len(weights):  # before as many are built
        raise ValueError(
            f"weights: {len(weights)} tensors are too few for {config.num_hidden_layers} layers"
        )
    with torch.device("meta"):
        wanted = {name: weight.shape for name, weight in Decoder(config).named_parameters()}
    for name, shape in wanted.items():
        if name not in weights:
            raise ValueError(f"weights: {name} is missing")
        if weights[name].shape != shape:
            raise ValueError(
                f"weights: {name} has shape {list(weights[name].shape)}, "
                f"the config wants {list(shape)}"
            )
        if not weights[name].is_floating_point():
            raise ValueError(f"weights: {name} is {weights[name].dtype}, not floating point")
    for name in weights:
        if name not in wanted:
            raise ValueError(f"weights: {name} is not supported")

"""A Hugging Face model directory in one dtype: what ``hf``, ``fp16`` and ``bf16`` write.

A Llama shape is one already; ``gpt-80m``'s shape is written as GPT-2. What transformers has no
class for keeps ``model_type: nestling``, which only nestling reads, and is refused as ``hf``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from lm.huggingface.config import to_hf
from lm.huggingface.model import Foreign
from lm.model.config import ModelConfig
from lm.volume import model_files
from lm.volume.content import CONFIG_FILE, WEIGHTS_FILE
from trainer.convert.exporting.gpt2 import gpt2_config, gpt2_weights, is_gpt2
from trainer.convert.exporting.source import Source


def has_class(config: ModelConfig) -> bool:
    """Whether transformers has a class that computes this model."""
    return config.is_llama or is_gpt2(config)


def refuse_without_class(config: ModelConfig) -> None:
    """Raise ``ValueError`` naming what transformers has no class for."""
    if has_class(config):
        return
    unlike = {
        "positions": config.positions,
        "norm": config.norm,
        "mlp": config.mlp,
        "residual_scale": f"{config.residual_scale:.4g}",
    }
    parts = ", ".join(f"{name} {value}" for name, value in unlike.items())
    raise ValueError(
        f"transformers has no class for this architecture ({parts}): it is neither Llama's nor "
        "GPT-2's; --format fp16, bf16, torch and int8 write it for nestling's own import"
    )


def write_directory(source: Source, directory: Path, dtype: torch.dtype) -> None:
    """Write a model directory; raises ``ValueError`` naming a weight that the dtype cannot hold."""
    foreign = Foreign(source.config, source.weights, source.tokenizer).to(dtype)
    for name, write in model_files(foreign.weights, source.config, source.tokenizer).items():
        if name != WEIGHTS_FILE:
            write(directory / name)
    config, weights = in_their_terms(source.config, foreign.weights, dtype)
    kept = json.loads((directory / CONFIG_FILE).read_text("utf-8"))
    tokens = {name: value for name, value in kept.items() if name.endswith("token_id")}
    (directory / CONFIG_FILE).write_text(json.dumps(config | tokens, indent=2) + "\n", "utf-8")
    safetensors.torch.save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()},
        directory / WEIGHTS_FILE,
        metadata={"format": "pt"},
    )


def in_their_terms(
    config: ModelConfig, weights: Mapping[str, Tensor], dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Content of ``config.json``, and weights by the names that go with it."""
    name = str(dtype).removeprefix("torch.")
    if is_gpt2(config):
        return gpt2_config(config, dtype=name), gpt2_weights(config, weights)
    return to_hf(config, dtype=name), dict(weights)

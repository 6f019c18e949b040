"""Rotary frequencies that some files keep, held against the config that implies them.

Older Llama files have ``rotary_emb.inv_freq`` in each layer, Meta's own ``rope.freqs``. They are
no weights, but the one place where a file of weights shows its rotary base.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from lm.model.config import ModelConfig

_KEPT = ("inv_freq", "rope.freqs")


def are_frequencies(name: str) -> bool:
    """Whether a tensor of this name holds rotary frequencies."""
    return name.endswith(_KEPT)


def check_frequencies(state: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Raise ``ValueError`` if the file keeps rotary frequencies that are not the config's."""
    for name, kept in state.items():
        if not are_frequencies(name):
            continue
        if config.positions != "rope":
            raise ValueError(f"{name}: the file's model has rotary positions, the config's has not")
        exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
        expected = config.rope_theta**-exponents
        # Files in float16 keep the lowest ones with a per cent of error.
        if kept.shape != expected.shape or not torch.allclose(
            kept.float(), expected, rtol=0.02, atol=1e-6
        ):
            raise ValueError(
                f"{name} is not that of model.rope_theta {config.rope_theta:g}"
                f"{_implied_theta(kept)}"
            )


def _implied_theta(frequencies: Tensor) -> str:
    """The base that the second frequency gives, for an error; nothing if there is none."""
    if frequencies.ndim != 1 or len(frequencies) < 2 or frequencies[1] <= 0:
        return ""
    return f", it says about {float(frequencies[1].double()) ** -len(frequencies):.2g}"

"""Fresh weights, as the SmolLM2 recipe draws them.

Normal with standard deviation 1/√hidden (or the config's own), projections that write to the
residual stream scaled down by √(2 · layers) as in GPT-2, norms at one, biases at zero. One
generator in one fixed order: the same seed gives the same weights on every machine.
"""

import math

import torch
from torch import nn

from lm.model.decoder import Decoder


def initialize(decoder: Decoder, seed: int) -> None:
    """Overwrite every weight of a CPU decoder, reproducibly from the seed."""
    generator = torch.Generator().manual_seed(seed)
    config = decoder.config
    residual_std = config.init_std / math.sqrt(2 * config.num_hidden_layers)
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            if name == "lm_head" and config.tie_word_embeddings:
                continue
            writes_residual = name.endswith(("o_proj", "down_proj"))
            std = residual_std if writes_residual else config.init_std
            nn.init.normal_(module.weight, 0.0, std, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.reset_parameters()

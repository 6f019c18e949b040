"""Rotary frequencies that a file keeps; oracle: transformers' own module that makes them."""

from typing import Any

import pytest
import torch

from lm.huggingface.model import Foreign
from lm.model.config import ModelConfig
from lm.model.decoder import Decoder
from lm.text.tokenizer import Tokenizer

CONFIG = ModelConfig(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rope_theta=100_000.0,
)


def frequencies(theta: float) -> torch.Tensor:
    transformers: Any = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = transformers.LlamaConfig(
        hidden_size=32,
        num_attention_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    kept: torch.Tensor = LlamaRotaryEmbedding(config).inv_freq
    return kept


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary_emb.inv_freq", "rope.freqs"])
def test_a_directory_with_frequencies_of_another_base_is_refused(
    name: str, tokenizer: Tokenizer
) -> None:
    weights = {key: value.detach() for key, value in Decoder(CONFIG).named_parameters()}
    kept = Foreign.checked(CONFIG, weights | {name: frequencies(100_000.0)}, tokenizer)
    assert name not in kept.weights
    with pytest.raises(ValueError, match=r"model\.rope_theta 100000, it says about 1e\+04"):
        Foreign.checked(CONFIG, weights | {name: frequencies(10_000.0)}, tokenizer)

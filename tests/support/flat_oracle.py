"""Flat steps of a toy on a CPU, and what the plain decoder says of the same tokens."""

import torch
from torch import Tensor
from toys import toy_decoder

from lm.model.attention import CausalAttention
from lm.model.config import ModelConfig
from lm.model.decoder import Decoder
from service.engine.gpu.layout import FlatLayout
from service.engine.gpu.tensors import (
    DecoderWeights,
    KeyValues,
    LayerWeights,
    StepRows,
    empty_weights,
)


def llama_config(head_dim: int, heads: int, shared: int, layers: int = 1) -> ModelConfig:
    """A toy of these heads; 300 tokens of vocabulary, 256 positions."""
    return ModelConfig(
        vocab_size=300,
        hidden_size=heads * head_dim,
        intermediate_size=80,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        max_position_embeddings=256,
    )


def joined_weights(decoder: Decoder) -> DecoderWeights:
    """Copies of a decoder's weights, joined as the steps read them."""
    config = decoder.config
    named = {name: tensor.detach() for name, tensor in decoder.state_dict().items()}
    empty = empty_weights(config, torch.float32, torch.device("cpu"))
    half = config.head_dim // 2
    cos, sin = decoder._rotary_table

    def layer(index: int) -> LayerWeights:
        prefix = f"model.layers.{index}."

        def join(*names: str) -> Tensor:
            return torch.cat([named[f"{prefix}{name}.weight"] for name in names])

        attention = [f"self_attn.{name}_proj" for name in "qkv"]
        return LayerWeights(
            attention_norm=join("input_layernorm"),
            qkv=join(*attention),
            out=join("self_attn.o_proj"),
            mlp_norm=join("post_attention_layernorm"),
            gate_up=join("mlp.gate_proj", "mlp.up_proj"),
            down=join("mlp.down_proj"),
        )

    return DecoderWeights(
        embedding=empty.embedding.copy_(named["model.embed_tokens.weight"]),
        layers=tuple(layer(index) for index in range(config.num_hidden_layers)),
        norm=named["model.norm.weight"],
        head=named["lm_head.weight"],
        cos=cos[:, :half].contiguous(),
        sin=sin[:, :half].contiguous(),
    )


def lively_decoder(config: ModelConfig, seed: int = 0) -> Decoder:
    """A toy whose norms are no ones, so that a norm left out or taken twice is seen."""
    decoder = toy_decoder(seed, config)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            if "norm" in name:
                weight.copy_(torch.rand(weight.shape, generator=generator) + 0.5)
    return decoder


def poisoned_cache(config: ModelConfig, slots: int, max_tokens: int) -> KeyValues:
    """A cache of NaN: whatever reads a key that was never written says so."""
    shape = (
        config.num_hidden_layers,
        slots,
        config.num_key_value_heads,
        max_tokens,
        config.head_dim,
    )
    return KeyValues(key=torch.full(shape, torch.nan), value=torch.full(shape, torch.nan))


def rows_of(layout: FlatLayout, last_tokens: list[int]) -> tuple[StepRows, Tensor]:
    """Tensors of a layout: its rows and its tiles."""
    rows = StepRows(
        token_ids=torch.from_numpy(layout.token_ids),
        positions=torch.from_numpy(layout.positions),
        slots=torch.from_numpy(layout.slots),
        last_tokens=torch.tensor(last_tokens, dtype=torch.int32),
    )
    return rows, torch.from_numpy(layout.tiles)


@torch.inference_mode()
def plain_hidden(decoder: Decoder, token_ids: list[int]) -> Tensor:
    """Hidden states [T, C] of one whole sequence, computed at once."""
    positions = torch.arange(len(token_ids))
    return decoder.hidden(torch.tensor([token_ids]), positions, CausalAttention(0.0))[0]

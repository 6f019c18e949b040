"""The slow reference of a decode step: row by row in float64, from the definition of the model."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.model.config import ModelConfig
from lm.model.rotary import rotary_table
from service.engine.gpu.tensors import DecoderWeights, KeyValues, StepRows, empty_weights


def decode_config(head_dim: int, heads: int, key_value_heads: int, **changes: int) -> ModelConfig:
    """One layer of so many heads, the other widths no powers of two."""
    sizes = {"vocab_size": 50, "intermediate_size": 80, "num_hidden_layers": 1, **changes}
    return ModelConfig(
        hidden_size=head_dim * heads,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=100,
        **sizes,
    )


def drawn_weights(config: ModelConfig, seed: int = 0) -> DecoderWeights:
    """Float32 weights whose norms are no ones."""
    generator = torch.Generator().manual_seed(seed)
    weights = empty_weights(config, torch.float32, torch.device("cpu"))
    matrices = [weights.embedding, weights.head]
    norms = [weights.norm]
    for layer in weights.layers:
        matrices += [layer.qkv, layer.out, layer.gate_up, layer.down]
        norms += [layer.attention_norm, layer.mlp_norm]
    for matrix in matrices:
        matrix.normal_(0.0, matrix.shape[1] ** -0.5, generator=generator)
    for norm in norms:
        norm.uniform_(0.5, 1.5, generator=generator)
    cos, sin = rotary_table(config.max_position_embeddings, config.head_dim, config.rope_theta)
    weights.cos.copy_(cos[:, : config.head_dim // 2])
    weights.sin.copy_(sin[:, : config.head_dim // 2])
    return weights


@dataclasses.dataclass(frozen=True)
class DecodeCase:
    """Rows of a step over a cache that is NaN wherever nothing was written."""

    config: ModelConfig
    weights: DecoderWeights
    cache: KeyValues
    rows: StepRows

    @classmethod
    def drawn(cls, config: ModelConfig, positions: list[int], tokens: int) -> "DecodeCase":
        """One row a position, -1 for a dead one, in slots of so many tokens."""
        generator = torch.Generator().manual_seed(len(positions))
        count = len(positions)
        num_slots = count + 2
        heads = (config.num_key_value_heads, tokens, config.head_dim)
        shape = (config.num_hidden_layers, num_slots, *heads)
        key, value = torch.full(shape, torch.nan), torch.full(shape, torch.nan)
        slots = torch.randperm(num_slots, generator=generator)[:count].int()
        for slot, position in zip(slots, positions, strict=True):
            for held in (key, value):
                past = held[:, slot, :, : max(position, 0)]
                past.normal_(generator=generator)
        places = torch.tensor(positions, dtype=torch.int32)
        token_ids = torch.randint(config.vocab_size, (count,), generator=generator).int()
        token_ids[::3] = -1
        rows = StepRows(
            token_ids=token_ids,
            positions=places.clamp(min=0),
            slots=torch.where(places < 0, -1, slots).int(),
            last_tokens=torch.randint(config.vocab_size, (num_slots,), generator=generator).int(),
        )
        return cls(config, drawn_weights(config), KeyValues(key=key, value=value), rows)

    def copy_of_cache(self) -> KeyValues:
        """As it is now."""
        return KeyValues(key=self.cache.key.clone(), value=self.cache.value.clone())


def reference_step(case: DecodeCase, cache: KeyValues) -> Tensor:
    """Logits [B, V] in float64, NaN for dead rows; writes the rows' keys and values to a cache."""
    logits = torch.full((len(case.rows.slots), case.config.vocab_size), torch.nan).double()
    for row, slot in enumerate(case.rows.slots.tolist()):
        if slot >= 0:
            token = int(case.rows.token_ids[row])
            token = int(case.rows.last_tokens[slot]) if token < 0 else token
            position = int(case.rows.positions[row])
            logits[row] = _row(case, cache, token, slot, position)
    return logits


def _row(case: DecodeCase, cache: KeyValues, token: int, slot: int, position: int) -> Tensor:
    config, weights = case.config, case.weights
    heads, shared, half = (
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim // 2,
    )
    cos, sin = weights.cos[position].double(), weights.sin[position].double()

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape, weight.double(), config.norm_eps)

    def rotate(x: Tensor) -> Tensor:
        first, second = x[:, :half], x[:, half:]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=1)

    x = weights.embedding[token].double()
    for index, layer in enumerate(weights.layers):
        joined = layer.qkv.double() @ norm(x, layer.attention_norm)
        query, key, value = joined.view(-1, config.head_dim).split((heads, shared, shared))
        cache.key[index, slot, :, position] = rotate(key)
        cache.value[index, slot, :, position] = value
        keys = cache.key[index, slot, :, : position + 1].double()
        values = cache.value[index, slot, :, : position + 1].double()
        mixed = F.scaled_dot_product_attention(
            rotate(query)[:, None],
            keys.repeat_interleave(heads // shared, 0),
            values.repeat_interleave(heads // shared, 0),
        )
        x = x + layer.out.double() @ mixed.flatten()
        gate, up = (layer.gate_up.double() @ norm(x, layer.mlp_norm)).chunk(2)
        x = x + layer.down.double() @ (F.silu(gate) * up)
    return weights.head.double() @ norm(x, weights.norm)

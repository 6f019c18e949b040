"""Attention over slots against attention over whole sequences, computed the obvious way."""

import pytest
import torch
from serving import generation_request
from torch import Tensor
from toys import toy_config, toy_tokenizer

from service.engine.pytorch.attention import SlotAttention
from service.engine.pytorch.batch import build_batch
from service.engine.pytorch.cache import SlotCache
from service.engine.scheduling.plan import Chunk, Plan
from service.engine.scheduling.sequence import Sequence

CPU = torch.device("cpu")


def obvious_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Query [Hq, T, D] over key and value [Hkv, T, D], each token over itself and before."""
    group = query.shape[0] // key.shape[0]
    mixed = torch.zeros_like(query)
    for head in range(query.shape[0]):
        for token in range(query.shape[1]):
            keys = key[head // group, : token + 1]
            weights = (keys @ query[head, token] / query.shape[-1] ** 0.5).softmax(0)
            mixed[head, token] = weights @ value[head // group, : token + 1]
    return mixed


@pytest.mark.parametrize("num_key_value_heads", [1, 2, 4])
@pytest.mark.parametrize("slots", [(0, 1, 2, 3), (3, 0, 2, 1)], ids=["neighbours", "scattered"])
def test_each_token_sees_its_own_sequence_up_to_itself(
    num_key_value_heads: int, slots: tuple[int, ...]
) -> None:
    config = toy_config(num_key_value_heads=num_key_value_heads)
    heads, width = config.num_attention_heads, config.head_dim
    cache = SlotCache(config, num_slots=4, max_tokens=12, dtype=torch.float64, device=CPU)
    generator = torch.Generator().manual_seed(1)
    # Four sequences of so many tokens, and how far each had come before the last step: two
    # decode, one continues its prompt, one begins.
    lengths, computed = (6, 9, 8, 5), (5, 8, 3, 0)
    qkv = [
        [
            torch.randn(count, length, width, generator=generator, dtype=torch.float64)
            for count in (heads, num_key_value_heads, num_key_value_heads)
        ]
        for length in lengths
    ]

    def attend(starts: tuple[int, ...], ends: tuple[int, ...]) -> Tensor:
        rows = [row for row in range(4) if ends[row] > starts[row]]
        chunks = []
        for row in rows:
            sequence = Sequence(generation_request(str(row), (7,) * 12), toy_tokenizer())
            sequence.slot = slots[row]
            chunks.append(Chunk(sequence, starts[row], ends[row]))
        query, key, value = (
            torch.cat([qkv[row][part][:, starts[row] : ends[row]] for row in rows], dim=1)[None]
            for part in range(3)
        )
        attention = SlotAttention(cache, build_batch(Plan(tuple(chunks), ()), CPU))
        return attention(1, query, key, value)[0]

    attend((0, 0, 0, 0), computed)
    mixed = attend(computed, lengths)
    expected = torch.cat(
        [obvious_attention(*qkv[row])[:, computed[row] :] for row in range(4)], dim=1
    )
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-12)

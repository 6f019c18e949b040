import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from lm.model.rotary import rotary_table, rotate


@pytest.mark.parametrize("theta", [10_000.0, 100_000.0])
def test_the_table_is_transformers_table_to_the_bit(theta: float) -> None:
    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    theirs = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(8192)[None])
    for ours, their in zip(rotary_table(8192, 64, theta), theirs, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, their[0])


def test_rotation_is_that_of_transformers() -> None:
    cos, sin = rotary_table(7, 16, 10_000.0)
    query, key = torch.randn(2, 2, 3, 7, 16, generator=torch.Generator().manual_seed(0))
    theirs = apply_rotary_pos_emb(query, key, cos[None], sin[None])
    assert torch.equal(rotate(query, cos, sin), theirs[0])
    assert torch.equal(rotate(key, cos, sin), theirs[1])


def test_position_zero_leaves_a_vector_as_it_is() -> None:
    cos, sin = rotary_table(1, 8, 10_000.0)
    x = torch.arange(8.0)
    assert torch.equal(rotate(x, cos[0], sin[0]), x)


def test_the_first_pair_turns_by_one_radian_a_position() -> None:
    cos, sin = rotary_table(5, 4, 10_000.0)
    turned = rotate(torch.tensor([1.0, 0.0, 0.0, 0.0]), cos[3], sin[3])
    assert turned.tolist() == pytest.approx([math.cos(3), 0.0, math.sin(3), 0.0], abs=1e-6)


def test_a_product_of_rotated_vectors_depends_on_their_distance_alone() -> None:
    cos, sin = (table.double() for table in rotary_table(200, 32, 10_000.0))
    query, key = torch.randn(2, 32, generator=torch.Generator().manual_seed(1)).double()

    def score(at: int, distance: int) -> float:
        return float(
            rotate(query, cos[at + distance], sin[at + distance]) @ rotate(key, cos[at], sin[at])
        )

    for distance in (0, 1, 17):
        assert score(150, distance) == pytest.approx(score(3, distance), abs=1e-3)
    assert abs(score(3, 17) - score(3, 1)) > 0.1


def test_rotation_keeps_lengths() -> None:
    cos, sin = rotary_table(50, 16, 10_000.0)
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(rotate(x, cos, sin).norm(dim=-1), x.norm(dim=-1))


def test_the_table_lies_on_the_cpu_even_while_weights_are_laid_out_on_meta() -> None:
    with torch.device("meta"):
        tables = rotary_table(4, 8, 10_000.0)
    assert [table.device.type for table in tables] == ["cpu", "cpu"]

import pytest
import torch

from lm.model.config import ModelConfig
from trainer.convert.importing.layouts import as_linear

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=16,
)
"""Every matrix of a block but the fused one is square or could be."""
BLOCK = "model.layers.0"
ATTENTION = f"{BLOCK}.self_attn"


@pytest.mark.parametrize("is_conv1d", [False, True])
def test_the_fused_projection_says_how_all_matrices_lie(is_conv1d: bool) -> None:
    fused, square = torch.randn(16, 8), torch.randn(8, 8)
    parts = ("self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
    linear = {f"{ATTENTION}.qkv_proj.weight": fused}
    linear |= {f"{BLOCK}.{part}.weight": square for part in parts}
    others = {f"{ATTENTION}.qkv_proj.bias": torch.arange(16.0), "lm_head.weight": square}
    given = {name: weight.T.clone() if is_conv1d else weight for name, weight in linear.items()}
    weights = as_linear(given | others, CONFIG)
    for letter, rows in {"q": (0, 8), "k": (8, 12), "v": (12, 16)}.items():
        name = f"{ATTENTION}.{letter}_proj"
        assert torch.equal(weights[f"{name}.weight"], fused[slice(*rows)])
        assert torch.equal(weights[f"{name}.bias"], torch.arange(float(rows[0]), rows[1]))
    for part in parts:
        assert torch.equal(weights[f"{BLOCK}.{part}.weight"], square)
    assert torch.equal(weights["lm_head.weight"], square)


def test_projections_that_stand_apart_are_left_as_they_are() -> None:
    weights = {f"{ATTENTION}.q_proj.weight": torch.randn(8, 8), "lm_head.weight": torch.ones(2)}
    assert as_linear(weights, CONFIG) == weights


@pytest.mark.parametrize("shape", [(24, 8), (8, 24)])
def test_a_fused_projection_of_other_heads_is_named(shape: tuple[int, int]) -> None:
    name = f"{ATTENTION}.qkv_proj.weight"
    with pytest.raises(ValueError, match=r"qkv_proj\.weight has shape .* the config wants 16 rows"):
        as_linear({name: torch.ones(shape)}, CONFIG)

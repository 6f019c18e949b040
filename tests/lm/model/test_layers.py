import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import toy_config

from lm.model.attention import CausalAttention
from lm.model.layers import Block, GeluMLP, SelfAttention, SwiGLU, make_norm
from lm.model.rotary import rotary_table


def states(seed: int = 0, tokens: int = 5) -> Tensor:
    return torch.randn(2, tokens, 64, generator=torch.Generator().manual_seed(seed))


def spread(module: nn.Module) -> nn.Module:
    """Random values in every parameter, biases and norms too, so that none is without effect."""
    generator = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.5, 0.3, generator=generator)
    return module.eval()


class RecordingAttention:
    """Notes what the projections hand over and answers with the queries."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.layer, self.query, self.key, self.value = layer, query, key, value
        return query


def test_swiglu_is_gate_times_up_then_down() -> None:
    mlp = spread(SwiGLU(toy_config()))
    gate, up, down = (mlp.get_parameter(f"{part}_proj.weight") for part in ("gate", "up", "down"))
    x = states()
    gated = (x @ gate.T) * torch.sigmoid(x @ gate.T) * (x @ up.T)
    torch.testing.assert_close(mlp(x), gated @ down.T)


def test_gelu_mlp_is_up_then_gelu_in_its_tanh_form_then_down() -> None:
    mlp = spread(GeluMLP(toy_config(mlp="gelu")))
    inner = states() @ mlp.get_parameter("up_proj.weight").T
    cubic = math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)
    expected = 0.5 * inner * (1 + torch.tanh(cubic)) @ mlp.get_parameter("down_proj.weight").T
    torch.testing.assert_close(mlp(states()), expected)


def test_the_exact_gelu_is_that_of_the_normal_distribution() -> None:
    mlp = spread(GeluMLP(toy_config(mlp="gelu_erf")))
    inner = states() @ mlp.get_parameter("up_proj.weight").T
    expected = inner * torch.special.ndtr(inner) @ mlp.get_parameter("down_proj.weight").T
    torch.testing.assert_close(mlp(states()), expected)


@pytest.mark.parametrize("mlp", ["swiglu", "gelu", "gelu_erf"])
@pytest.mark.parametrize("bias", [False, True])
def test_biases_are_in_every_projection_or_in_none(mlp: str, bias: bool) -> None:
    block = Block(toy_config(mlp=mlp, bias=bias), layer=0)
    projections = [module for module in block.modules() if isinstance(module, nn.Linear)]
    assert len(projections) == (7 if mlp == "swiglu" else 6)
    assert {module.bias is not None for module in projections} == {bias}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"norm": "rmsnorm"}, (nn.RMSNorm, {"weight"})),
        ({"norm": "layernorm"}, (nn.LayerNorm, {"weight"})),
        ({"norm": "layernorm", "bias": True}, (nn.LayerNorm, {"weight", "bias"})),
        ({"norm": "rmsnorm", "bias": True}, (nn.RMSNorm, {"weight"})),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else value[0].__name__,
)
def test_the_norm_is_the_configured_one(
    changes: dict[str, Any], expected: tuple[type[nn.Module], set[str]]
) -> None:
    norm = make_norm(toy_config(**changes, norm_eps=0.125))
    kind, names = expected
    assert isinstance(norm, kind)
    assert norm.eps == 0.125
    assert {name for name, _ in norm.named_parameters()} == names


def test_rmsnorm_divides_by_the_root_mean_square() -> None:
    x = states()
    expected = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(make_norm(toy_config())(x), expected)


def test_attention_is_handed_heads_of_its_layer() -> None:
    attention, attend = SelfAttention(toy_config(), layer=9), RecordingAttention()
    out = attention(states(), None, attend)
    assert attend.layer == 9
    assert attend.query.shape == (2, 4, 5, 16)
    assert attend.key.shape == attend.value.shape == (2, 2, 5, 16)
    assert out.shape == (2, 5, 64)


def test_heads_are_consecutive_slices_of_the_projection() -> None:
    attention, attend = SelfAttention(toy_config(), layer=0), RecordingAttention()
    attention(states(), None, attend)
    projected = attention.k_proj(states())
    assert torch.equal(attend.key[1, 1, 3], projected[1, 3, 16:32])


def test_rotation_reaches_queries_and_keys_but_not_values() -> None:
    attention = SelfAttention(toy_config(), layer=0)
    plain, rotated = RecordingAttention(), RecordingAttention()
    cos, sin = rotary_table(5, 16, 10_000.0)
    attention(states(), None, plain)
    attention(states(), (cos[None, None], sin[None, None]), rotated)
    assert torch.equal(plain.value, rotated.value)
    for before, after in ((plain.query, rotated.query), (plain.key, rotated.key)):
        assert torch.equal(before[:, :, 0], after[:, :, 0])
        assert not torch.allclose(before[:, :, 1:], after[:, :, 1:])


@pytest.mark.parametrize("scale", [1.0, 1 / math.sqrt(2)])
def test_a_block_adds_scaled_outputs_of_normed_inputs(scale: float) -> None:
    block = spread(Block(toy_config(residual_scale=scale), layer=0))
    attend, x = CausalAttention(), states()
    middle = x + scale * block.self_attn(block.input_layernorm(x), None, attend)
    expected = middle + scale * block.mlp(block.post_attention_layernorm(middle))
    torch.testing.assert_close(block(x, None, attend), expected)


def test_dropout_falls_on_block_outputs_in_training_only() -> None:
    block = Block(toy_config(dropout=0.5), layer=0)
    for projection in (block.self_attn.o_proj, block.mlp.down_proj):
        nn.init.zeros_(projection.weight)
    x, attend = states(), CausalAttention()
    assert torch.equal(block(x, None, attend), x)
    spread(block)
    assert torch.equal(block(x, None, attend), block(x, None, attend))
    block.train()
    torch.manual_seed(0)
    assert not torch.equal(block(x, None, attend), block(x, None, attend))

import pytest
import torch

from lm.config import ModelConfig
from trainer.importing.names import is_buffer, our_weights

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


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("wte.weight", "model.embed_tokens.weight"),
        ("lit.net.transformer.wpe.weight", "model.embed_positions.weight"),
        ("model._orig_mod.transformer.h.1.ln_1.bias", "model.layers.1.input_layernorm.bias"),
        ("module.layers.0.norm2.weight", "model.layers.0.post_attention_layernorm.weight"),
        ("blocks.0.attn.c_proj.weight", "model.layers.0.self_attn.o_proj.weight"),
        ("encoder.layers.0.self_attn.out_proj.bias", "model.layers.0.self_attn.o_proj.bias"),
        ("layers.1.feed_forward.w1.weight", "model.layers.1.mlp.gate_proj.weight"),
        ("model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"),
        ("model.norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
    ],
)
def test_a_name_is_ours_whatever_stands_in_front(theirs: str, ours: str) -> None:
    assert list(our_weights({theirs: torch.ones(3)}, CONFIG)) == [ours]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("layers.0.mlp.up_projection.weight", "mlp.up_proj"),
        ("h.0.attn.c_atn.weight", "attn.c_attn"),
        ("token_embeddings.weight", "token_embedding"),
        ("layers.0.wte.weight", "wte"),  # known, but not in a block
        ("ln_1.weight", "ln_1"),  # known, but not outside
    ],
)
def test_an_unknown_name_is_refused_beside_a_known_one(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match="names that are not known: ") as error:
        our_weights({name: torch.ones(3)}, CONFIG)
    assert str(error.value).endswith(f"{name!r} (nearest: {nearest!r})")


def test_a_norm_with_a_scale_is_not_taken_for_one_with_a_weight() -> None:
    with pytest.raises(ValueError, match=r"'h\.0\.ln_1\.scale'"):
        our_weights({"h.0.ln_1.scale": torch.ones(3)}, CONFIG)


def test_only_the_first_unknown_names_are_listed() -> None:
    names = {f"heads.{index}.weight": torch.ones(1) for index in range(9)}
    with pytest.raises(ValueError, match=r"'heads\.0\.weight'.*'heads\.2\.weight'.* and 6 more$"):
        our_weights(names, CONFIG)


def test_two_names_of_one_weight_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wte\.weight and ema\.wte\.weight would both be"):
        our_weights({"wte.weight": torch.ones(3), "ema.wte.weight": torch.ones(3)}, CONFIG)


@pytest.mark.parametrize("is_conv1d", [False, True])
def test_the_fused_projection_says_how_all_matrices_lie(is_conv1d: bool) -> None:
    fused, square = torch.randn(16, 8), torch.randn(8, 8)
    parts = ("attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    linear = {"h.0.attn.c_attn.weight": fused} | {f"h.0.{p}.weight": square for p in parts}
    biases = {"h.0.attn.c_attn.bias": torch.arange(16.0), "h.0.ln_1.weight": torch.ones(8)}
    given = {name: weight.T.clone() if is_conv1d else weight for name, weight in linear.items()}
    weights = our_weights(given | biases | {"wte.weight": square}, CONFIG)
    block = "model.layers.0"
    for letter, rows in {"q": (0, 8), "k": (8, 12), "v": (12, 16)}.items():
        name = f"{block}.self_attn.{letter}_proj"
        assert torch.equal(weights[f"{name}.weight"], fused[slice(*rows)])
        assert torch.equal(weights[f"{name}.bias"], torch.arange(float(rows[0]), rows[1]))
    for part in ("self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
        assert torch.equal(weights[f"{block}.{part}.weight"], square)
    assert torch.equal(weights["model.embed_tokens.weight"], square)


def test_what_the_config_implies_is_a_buffer() -> None:
    buffers = [
        "transformer.h.0.attn.bias",
        "h.0.attn.masked_bias",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "layers.0.rotary.cos_cached",
        "freqs_cis",
        "position_ids",
    ]
    assert all(map(is_buffer, buffers))
    weights = ["h.0.attn.c_attn.bias", "h.0.ln_1.bias", "layers.0.self_attn.out_proj.bias"]
    assert not any(map(is_buffer, weights))

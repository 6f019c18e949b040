import pytest
import torch

from trainer.convert.importing.names import by_our_names, is_buffer


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("wte.weight", "model.embed_tokens.weight"),
        ("lit.net.transformer.wpe.weight", "model.embed_positions.weight"),
        ("model._orig_mod.transformer.h.1.ln_1.bias", "model.layers.1.input_layernorm.bias"),
        ("module.layers.0.norm2.weight", "model.layers.0.post_attention_layernorm.weight"),
        ("blocks.0.attn.c_proj.weight", "model.layers.0.self_attn.o_proj.weight"),
        ("encoder.layers.0.self_attn.out_proj.bias", "model.layers.0.self_attn.o_proj.bias"),
        ("encoder.layers.0.linear2.weight", "model.layers.0.mlp.down_proj.weight"),
        ("blocks.1.attention.query.weight", "model.layers.1.self_attn.q_proj.weight"),
        ("blocks.1.mlp.2.bias", "model.layers.1.mlp.down_proj.bias"),
        ("layers.1.feed_forward.w1.weight", "model.layers.1.mlp.gate_proj.weight"),
        ("model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"),
        ("model.norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
    ],
)
def test_a_name_is_ours_whatever_stands_in_front(theirs: str, ours: str) -> None:
    assert list(by_our_names({theirs: torch.ones(3)})) == [ours]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("layers.0.mlp.up_projection.weight", "mlp.up_proj"),
        ("h.0.attn.c_atn.weight", "attn.c_attn"),
        ("token_embeddings.weight", "token_embedding"),
        ("layers.0.lm_head.weight", "linear2"),  # known, but not in a block
        ("ln_1.weight", "ln_f"),  # known, but not outside
    ],
)
def test_an_unknown_name_is_refused_beside_a_known_one(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match="names that are not known: ") as error:
        by_our_names({name: torch.ones(3)})
    assert str(error.value).endswith(f"{name!r} (nearest: {nearest!r})")


def test_a_norm_with_a_scale_is_not_taken_for_one_with_a_weight() -> None:
    with pytest.raises(ValueError, match=r"'h\.0\.ln_1\.scale'"):
        by_our_names({"h.0.ln_1.scale": torch.ones(3)})


def test_only_the_first_unknown_names_are_listed() -> None:
    names = {f"heads.{index}.weight": torch.ones(1) for index in range(9)}
    with pytest.raises(ValueError, match=r"'heads\.0\.weight'.*'heads\.2\.weight'.* and 6 more$"):
        by_our_names(names)


def test_two_names_of_one_weight_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wte\.weight and ema\.wte\.weight would both be"):
        by_our_names({"wte.weight": torch.ones(3), "ema.wte.weight": torch.ones(3)})


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

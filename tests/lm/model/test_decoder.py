import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import toy_config, toy_decoder, toy_weights
from toys.properties import examples

from lm.model.attention import CausalAttention
from lm.model.decoder import Decoder, decoder_from_weights

SWITCHES: list[dict[str, Any]] = [
    {},
    {"positions": "learned"},
    {"norm": "layernorm"},
    {"mlp": "gelu"},
    {"bias": True},
    {"tie_word_embeddings": False},
    {"residual_scale": 0.5},
    {"num_key_value_heads": 4},
    {"num_key_value_heads": 1},
    {"rope_theta": 100_000.0},
    {"norm_eps": 0.1},
    {"positions": "learned", "norm": "layernorm", "mlp": "gelu", "bias": True},
]
switches = pytest.mark.parametrize("changes", SWITCHES, ids=str)


def token_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(300, shape, generator=torch.Generator().manual_seed(seed))


def storage_is_shared(decoder: Decoder) -> bool:
    embedding, head = decoder.model.embed_tokens.weight, decoder.lm_head.weight
    return embedding is head and embedding.data_ptr() == head.data_ptr()


def give_every_parameter_an_effect(decoder: Decoder) -> Decoder:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return decoder


@switches
def test_every_switch_gives_finite_logits_of_the_right_shape(changes: dict[str, Any]) -> None:
    logits = toy_decoder(config=toy_config(**changes))(token_ids(2, 9))
    assert logits.shape == (2, 9, 300)
    assert logits.dtype == torch.float32
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize("changes", [{"rope_theta": 100_000.0}, *SWITCHES[6:7], *SWITCHES[10:11]])
def test_a_switch_without_weights_changes_the_function(changes: dict[str, Any]) -> None:
    weights = toy_weights()
    plain = decoder_from_weights(toy_config(), weights)
    switched = decoder_from_weights(toy_config(**changes), weights)
    assert not torch.allclose(plain(token_ids(1, 20)), switched(token_ids(1, 20)), atol=1e-4)


@switches
def test_every_parameter_takes_part(changes: dict[str, Any]) -> None:
    decoder = give_every_parameter_an_effect(toy_decoder(config=toy_config(**changes)))
    decoder(token_ids(2, 9)).square().sum().backward()
    idle = [
        name
        for name, parameter in decoder.named_parameters()
        # A key bias shifts all scores of a query alike, and softmax takes shifts away: only the
        # rotation lets it through.
        if (parameter.grad is None or not bool(parameter.grad.abs().sum() > 0))
        and not (name.endswith("k_proj.bias") and changes.get("positions") == "learned")
    ]
    assert idle == []


@switches
def test_later_tokens_do_not_change_earlier_logits(changes: dict[str, Any]) -> None:
    decoder = toy_decoder(config=toy_config(**changes)).double()
    row = token_ids(1, 12)
    changed = row.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % 300
    before, after = decoder(row), decoder(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


@switches
def test_hidden_then_head_is_forward(changes: dict[str, Any]) -> None:
    decoder = toy_decoder(config=toy_config(**changes))
    row = token_ids(2, 9)
    hidden = decoder.hidden(row, torch.arange(9), CausalAttention())
    assert hidden.shape == (2, 9, 64)
    assert torch.equal(decoder.head(hidden), decoder(row))


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_positions_may_differ_from_row_to_row(positions: str) -> None:
    decoder = toy_decoder(config=toy_config(positions=positions)).double()
    row = token_ids(1, 9)
    shifted = torch.stack((torch.arange(9), torch.arange(9) + 31))
    both = decoder.hidden(row.expand(2, -1), shifted, CausalAttention())
    for index in range(2):
        alone = decoder.hidden(row, shifted[index], CausalAttention())
        torch.testing.assert_close(both[index], alone[0])


def test_rotary_logits_depend_on_distances_and_learned_ones_on_places() -> None:
    row, far = token_ids(1, 9), torch.arange(9) + 100
    for positions, moves in (("rope", False), ("learned", True)):
        decoder = toy_decoder(config=toy_config(positions=positions))
        here = decoder.hidden(row, torch.arange(9), CausalAttention())
        there = decoder.hidden(row, far, CausalAttention())
        assert torch.allclose(here, there, atol=1e-3) is not moves


@examples(20)
@given(lengths=st.lists(st.integers(1, 40), min_size=2, max_size=2), seed=st.integers(0, 99))
def test_a_row_does_not_depend_on_what_follows_or_stands_beside(
    lengths: list[int], seed: int
) -> None:
    decoder = toy_decoder().double()
    rows = token_ids(2, max(lengths), seed=seed)
    together = decoder(rows)
    for row, length in enumerate(lengths):
        alone = decoder(rows[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0])


def test_a_context_is_used_to_its_last_position() -> None:
    assert toy_decoder()(token_ids(1, 256)).shape == (1, 256, 300)
    with pytest.raises(IndexError):
        toy_decoder()(token_ids(1, 257))


def test_a_tied_head_is_the_embedding() -> None:
    decoder = toy_decoder()
    assert storage_is_shared(decoder)
    names = [name for name, _ in decoder.named_parameters()]
    assert "lm_head.weight" not in names
    assert len(names) == len(set(names))


def test_an_untied_head_is_not_the_embedding() -> None:
    decoder = toy_decoder(config=toy_config(tie_word_embeddings=False))
    assert not storage_is_shared(decoder)
    assert "lm_head.weight" in dict(decoder.named_parameters())


def test_a_tied_head_stays_tied_after_load_state_dict() -> None:
    decoder = toy_decoder(seed=1)
    decoder.load_state_dict(toy_weights(seed=2))
    assert storage_is_shared(decoder)
    assert torch.equal(decoder(token_ids(1, 5)), toy_decoder(seed=2)(token_ids(1, 5)))


def test_a_tied_head_stays_tied_in_a_deep_copy_of_its_own() -> None:
    decoder = toy_decoder()
    twin = copy.deepcopy(decoder)
    assert storage_is_shared(twin)
    assert twin.lm_head.weight.data_ptr() != decoder.lm_head.weight.data_ptr()
    assert torch.equal(twin(token_ids(1, 5)), decoder(token_ids(1, 5)))


def test_a_tied_head_stays_tied_when_cast() -> None:
    assert storage_is_shared(toy_decoder().to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_leaves_the_rotary_table_in_float32(dtype: torch.dtype) -> None:
    decoder = toy_decoder()
    before = decoder._rotary_table
    decoder.to(dtype)
    assert decoder.lm_head.weight.dtype == dtype
    for old, new in zip(before, decoder._rotary_table, strict=True):
        assert new.dtype == torch.float32
        assert torch.equal(old, new)
    assert decoder(token_ids(1, 9)).dtype == dtype


def test_the_rotary_table_is_in_no_state_dict() -> None:
    assert toy_weights().keys() == {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        *(
            f"model.layers.{layer}.{part}.weight"
            for layer in range(2)
            for part in (
                "input_layernorm",
                "post_attention_layernorm",
                *(f"self_attn.{side}_proj" for side in "qkvo"),
                *(f"mlp.{side}_proj" for side in ("gate", "up", "down")),
            )
        ),
    }


def test_the_rotary_table_does_not_follow_weights_to_the_meta_device() -> None:
    expected = toy_decoder()._rotary_table
    with torch.device("meta"):
        decoder = Decoder(toy_config())
    decoder.to(torch.bfloat16).to("meta")
    for laid_out, kept in zip(decoder._rotary_table, expected, strict=True):
        assert torch.equal(laid_out, kept)


@switches
def test_a_decoder_from_weights_holds_these_tensors_themselves(changes: dict[str, Any]) -> None:
    config = toy_config(**changes)
    weights = toy_weights(config=config)
    decoder = decoder_from_weights(config, weights)
    parameters = dict(decoder.named_parameters())
    assert {name: weights[name].data_ptr() for name in parameters} == {
        name: parameter.data_ptr() for name, parameter in parameters.items()
    }
    assert storage_is_shared(decoder) is config.tie_word_embeddings
    assert torch.equal(decoder(token_ids(1, 9)), toy_decoder(config=config)(token_ids(1, 9)))


def test_a_decoder_from_weights_needs_no_tied_head_among_them() -> None:
    weights = toy_weights()
    del weights["lm_head.weight"]
    decoder = decoder_from_weights(toy_config(), weights)
    assert storage_is_shared(decoder)
    assert torch.equal(decoder(token_ids(1, 9)), toy_decoder()(token_ids(1, 9)))


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    missing = toy_weights()
    del missing["model.norm.weight"]
    with pytest.raises(ValueError, match=r"model\.norm\.weight"):
        decoder_from_weights(toy_config(), missing)
    with pytest.raises(ValueError, match="extra"):
        decoder_from_weights(toy_config(), toy_weights() | {"extra": torch.ones(1)})
    with pytest.raises(ValueError, match=r"mlp\.\w+_proj\.weight"):
        decoder_from_weights(toy_config(intermediate_size=32), toy_weights())
    untied = toy_weights(config=toy_config(tie_word_embeddings=False))
    del untied["lm_head.weight"]
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        decoder_from_weights(toy_config(tie_word_embeddings=False), untied)


def test_dropout_acts_in_training_alone() -> None:
    decoder = toy_decoder(config=toy_config(dropout=0.3))
    row = token_ids(1, 9)
    assert torch.equal(decoder(row), decoder(row))
    assert torch.equal(decoder(row), toy_decoder()(row))
    decoder.train()
    torch.manual_seed(0)
    assert not torch.equal(decoder(row), decoder(row))

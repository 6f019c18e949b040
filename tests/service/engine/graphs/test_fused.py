"""The decoder of few kernels against its definition, ``lm.model.decoder``."""

import pytest
import torch
from toys import toy_config, toy_decoder

from lm.model.attention import CausalAttention
from service.engine.graphs.fused import FusedDecoder

CONFIGS = {
    "as it is": toy_config(),
    "one key head": toy_config(num_key_value_heads=1),
    "untied": toy_config(tie_word_embeddings=False),
}
TOKENS = torch.tensor([[5, 250, 17, 3, 99, 42, 1]])


@pytest.mark.parametrize("name", CONFIGS)
def test_hidden_states_and_logits_are_those_of_the_definition(name: str) -> None:
    config = CONFIGS[name]
    wanted = toy_decoder(3, config).double().requires_grad_(requires_grad=False)
    fused = FusedDecoder(toy_decoder(3, config).double().requires_grad_(requires_grad=False))
    positions = torch.tensor([0, 1, 2, 5, 6, 9, 11])
    for places in (positions, positions[None]):
        hidden = fused.hidden(TOKENS, places, CausalAttention())
        reference = wanted.hidden(TOKENS, places, CausalAttention())
        torch.testing.assert_close(hidden, reference, rtol=0, atol=1e-12)
    torch.testing.assert_close(fused(TOKENS), wanted(TOKENS), rtol=0, atol=1e-12)


def test_weights_are_held_once() -> None:
    decoder = toy_decoder(0)
    fused = FusedDecoder(decoder.requires_grad_(requires_grad=False))
    attention, layer = fused.model.layers[0].self_attn, fused._layers[0]
    starts = [p.weight.untyped_storage().data_ptr() for p in (attention.q_proj, attention.v_proj)]
    assert starts == [layer._qkv.untyped_storage().data_ptr()] * 2
    names = set(toy_decoder(0).state_dict())
    assert set(fused.state_dict()) == names
    for name, weight in toy_decoder(0).state_dict().items():
        assert torch.equal(fused.state_dict()[name], weight)


def test_other_shapes_are_not_taken() -> None:
    with pytest.raises(AssertionError, match="as they are defined"):
        FusedDecoder(toy_decoder(0, toy_config(positions="learned")))

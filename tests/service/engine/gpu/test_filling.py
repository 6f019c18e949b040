"""Published weights go to their places, or are refused by name."""

import dataclasses

import pytest
import torch
from serving.engines import pieces
from toys import toy_config, toy_decoder

from lm.model.decoder import Decoder
from lm.safetensors_file import Piece
from service.engine.gpu.buffers.filling import fill, tensors_of
from service.engine.gpu.tensors import DecoderWeights, empty_weights

CPU = torch.device("cpu")


def empty(decoder: Decoder) -> DecoderWeights:
    weights = empty_weights(decoder.config, torch.float32, CPU)
    for tensor in (weights.embedding, weights.norm, weights.head):
        tensor.fill_(torch.nan)
    return weights


@pytest.mark.parametrize("tied", [True, False])
def test_pieces_of_any_size_give_the_same_weights(tied: bool) -> None:
    decoder = toy_decoder(1, toy_config(tie_word_embeddings=tied))
    whole, parts = empty(decoder), empty(decoder)
    fill(whole, decoder.config, pieces(decoder))
    cut = (
        Piece(piece.name, piece.shape, first, piece.rows[first : first + 7].double())
        for piece in pieces(decoder)
        for first in range(0, len(piece.rows), 7)
    )
    fill(parts, decoder.config, cut)
    for field in dataclasses.fields(DecoderWeights):
        if field.name != "layers":
            one, other = getattr(whole, field.name), getattr(parts, field.name)
            assert torch.equal(one, other)
            assert bool(one.isfinite().all())
    for one, other in zip(whole.layers, parts.layers, strict=True):
        assert all(torch.equal(tensor, vars(other)[name]) for name, tensor in vars(one).items())
    assert (whole.head is whole.embedding) is tied
    assert torch.equal(whole.layers[0].qkv[: decoder.config.hidden_size],
                       decoder.state_dict()["model.layers.0.self_attn.q_proj.weight"])  # fmt: skip


def test_tensors_in_memory_are_pieces() -> None:
    decoder = toy_decoder(1)
    one, other = empty(decoder), empty(decoder)
    fill(one, decoder.config, pieces(decoder))
    fill(other, decoder.config, tensors_of(decoder.state_dict().items()))
    assert torch.equal(one.layers[1].gate_up, other.layers[1].gate_up)


def test_a_missing_tensor_is_named() -> None:
    decoder = toy_decoder(1)
    name = "model.layers.1.mlp.up_proj.weight"
    some = (piece for piece in pieces(decoder) if piece.name != name)
    with pytest.raises(ValueError, match=f"{name} is missing"):
        fill(empty(decoder), decoder.config, some)


def test_a_tensor_that_has_no_place_is_named() -> None:
    decoder = toy_decoder(1)
    extra = Piece("model.layers.9.bias", (3,), 0, torch.zeros(3))
    with pytest.raises(ValueError, match=r"model\.layers\.9\.bias is left over"):
        fill(empty(decoder), decoder.config, [*pieces(decoder), extra])


def test_a_tensor_of_another_shape_is_named_before_anything_of_it_is_copied() -> None:
    decoder = toy_decoder(1)
    wrong = toy_decoder(1, toy_config(intermediate_size=2 * decoder.config.intermediate_size))
    with pytest.raises(ValueError, match=r"gate_proj\.weight has shape \[\d+, \d+\], not \["):
        fill(empty(decoder), decoder.config, pieces(wrong))

import pytest
import torch
from toys import toy_config, toy_decoder

from trainer.run.resume import load_parameters


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_tied_stays_the_embedding_itself_after_a_load(tied: bool) -> None:
    config = toy_config(tie_word_embeddings=tied)
    decoder = toy_decoder(0, config)
    weights = dict(toy_decoder(1, config).named_parameters())
    load_parameters(decoder, weights)
    embedding, head = decoder.model.embed_tokens.weight, decoder.lm_head.weight
    assert (head is embedding) is tied
    assert (head.data_ptr() == embedding.data_ptr()) is tied
    for name, parameter in decoder.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    if tied:
        with torch.no_grad():
            embedding.add_(1.0)
        assert torch.equal(head, embedding)


def test_weights_with_other_names_are_refused_by_name() -> None:
    weights = dict(toy_decoder().named_parameters())
    weights["model.extra.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"not those of the recipe's model: model\.extra\.weight"):
        load_parameters(toy_decoder(), weights)


def test_weights_of_another_shape_are_refused_by_name() -> None:
    weights = dict(toy_decoder().named_parameters())
    with pytest.raises(ValueError, match=r"layers\.0\.\S+ is \(.*\) in the step and \(.*\)"):
        load_parameters(toy_decoder(config=toy_config(intermediate_size=80)), weights)

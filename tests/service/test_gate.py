import pytest
import torch
from tokenizers import Tokenizer as Backend
from toys import toy_config, toy_decoder, toy_tokenizer

from lm.tokenizer import Tokenizer
from service.gate import CheckpointRefused, check_numbers, check_tokenizer


def test_good_weights_pass() -> None:
    decoder = toy_decoder(0)
    check_numbers(decoder)
    check_tokenizer(decoder, toy_tokenizer(), toy_tokenizer().fingerprint)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_weight_that_is_no_number_is_refused_by_name(value: float) -> None:
    decoder = toy_decoder(0)
    with torch.no_grad():
        decoder.model.layers[1].mlp.up_proj.weight[3, 7] = value
    with pytest.raises(CheckpointRefused, match=r"layers\.1\.mlp\.up_proj\.weight") as refused:
        check_numbers(decoder)
    assert refused.value.reason == "weights_not_finite"


def test_finite_weights_whose_logits_overflow_are_refused() -> None:
    decoder = toy_decoder(0)
    with torch.no_grad():
        decoder.model.norm.weight.fill_(3e38)
    with pytest.raises(CheckpointRefused) as refused:
        check_numbers(decoder)
    assert refused.value.reason == "logits_not_finite"


def test_a_context_shorter_than_the_probe_passes() -> None:
    check_numbers(toy_decoder(0, toy_config(max_position_embeddings=4)))


def test_another_tokenizer_is_refused() -> None:
    with pytest.raises(CheckpointRefused) as refused:
        check_tokenizer(toy_decoder(0), toy_tokenizer(), "0" * 64)
    assert refused.value.reason == "tokenizer"


def test_a_tokenizer_with_more_ids_than_the_model_is_refused() -> None:
    backend = Backend.from_str(toy_tokenizer().backend.to_str())
    backend.add_tokens(["<|one-too-many|>"])
    tokenizer = Tokenizer(backend, bos_token_id=0, eos_token_ids=[0])
    with pytest.raises(CheckpointRefused, match="301 ids, the model 300"):
        check_tokenizer(toy_decoder(0), tokenizer, tokenizer.fingerprint)

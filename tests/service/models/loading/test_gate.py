import dataclasses
from pathlib import Path

import pytest
import torch
from serving import pieces, toy_runner, toy_served
from tokenizers import Tokenizer as Backend
from tokenizers import models
from toys import publish_toy, toy_config, toy_decoder, toy_tokenizer

from lm.text.tokenizer import Tokenizer
from service.engine.served_model import ServedModel
from service.models.loading.gate import (
    Gate,
    check_logits,
    check_sampling,
    check_tokenizer,
    check_weights,
)
from service.models.refused import CheckpointRefused


def measured(step: int, bits_per_byte: float) -> ServedModel:
    return dataclasses.replace(toy_served(step=step), bits_per_byte=bits_per_byte)


def test_good_weights_pass() -> None:
    decoder = toy_decoder(0)
    names = [piece.name for piece in check_weights(pieces(decoder))]
    assert names == list(decoder.state_dict())
    check_logits(toy_runner(decoder), toy_tokenizer())
    check_tokenizer(decoder.config, toy_tokenizer(), toy_tokenizer().fingerprint)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_weight_that_is_no_number_is_refused_by_name(value: float) -> None:
    decoder = toy_decoder(0)
    with torch.no_grad():
        decoder.model.layers[1].mlp.up_proj.weight[3, 7] = value
    passed = []
    with pytest.raises(CheckpointRefused, match=r"layers\.1\.mlp\.up_proj\.weight") as refused:
        passed.extend(check_weights(pieces(decoder)))
    assert refused.value.reason == "weights_not_finite"
    assert len(passed) == len(decoder.state_dict()), "damage is looked for in all that follows"


def test_finite_weights_whose_logits_overflow_are_refused() -> None:
    decoder = toy_decoder(0)
    with torch.no_grad():
        decoder.model.norm.weight.fill_(3e38)
    list(check_weights(pieces(decoder)))
    with pytest.raises(CheckpointRefused) as refused:
        check_logits(toy_runner(decoder), toy_tokenizer())
    assert refused.value.reason == "logits_not_finite"


def test_a_context_shorter_than_the_probe_passes() -> None:
    decoder = toy_decoder(0, toy_config(max_position_embeddings=4))
    check_logits(toy_runner(decoder), toy_tokenizer())


def test_another_tokenizer_is_refused() -> None:
    with pytest.raises(CheckpointRefused) as refused:
        check_tokenizer(toy_config(), toy_tokenizer(), "0" * 64)
    assert refused.value.reason == "tokenizer"


def test_a_tokenizer_with_more_ids_than_the_model_is_refused() -> None:
    backend = Backend.from_str(toy_tokenizer().backend.to_str())
    backend.add_tokens(["<|one-too-many|>"])
    tokenizer = Tokenizer(backend, bos_token_id=0, eos_token_ids=[0])
    with pytest.raises(CheckpointRefused, match="301 ids, the model 300"):
        check_tokenizer(toy_config(), tokenizer, tokenizer.fingerprint)


@pytest.mark.parametrize(("new", "passes"), [(1.5, True), (2.0, True), (2.1, True), (2.2, False)])
def test_bits_per_byte_may_be_worse_by_so_much(new: float, passes: bool) -> None:
    gate = Gate(max_bpb_regression=0.15)
    served = measured(1, 2.0)
    if passes:
        gate.check_behaviour(measured(2, new), served)
        return
    with pytest.raises(CheckpointRefused, match=r"2\.2000 bits .* toy@1 has 2\.0000") as refused:
        gate.check_behaviour(measured(2, new), served)
    assert refused.value.reason == "regression"


def test_the_first_checkpoint_has_nothing_to_be_worse_than() -> None:
    Gate(max_bpb_regression=0.0).check_behaviour(measured(1, 9.0), None)


def test_without_the_setting_nothing_is_compared() -> None:
    Gate().check_behaviour(measured(2, 9.0), measured(1, 1.0))


@pytest.mark.parametrize("flags", [(), ("memorising",), ("other",)])
@pytest.mark.parametrize("refuse", [True, False])
def test_memorising_is_refused_where_the_setting_says_so(
    tmp_path: Path, flags: tuple[str, ...], refuse: bool
) -> None:
    gate = Gate(refuse_memorising=refuse)
    step = publish_toy(tmp_path, "toy", 1, flags=flags)
    if not (refuse and "memorising" in flags):
        gate.check_claims(step)
        return
    with pytest.raises(CheckpointRefused) as refused:
        gate.check_claims(step)
    assert refused.value.reason == "memorising"


@pytest.mark.parametrize("refuse", [True, False])
def test_a_loop_is_refused_where_the_setting_says_so(refuse: bool) -> None:
    gate = Gate(refuse_degenerate=refuse)
    gate.check_behaviour(toy_served(), None)
    looping = dataclasses.replace(toy_served(), is_degenerate=True)
    if not refuse:
        gate.check_behaviour(looping, None)
        return
    with pytest.raises(CheckpointRefused) as refused:
        gate.check_behaviour(looping, None)
    assert refused.value.reason == "degenerate"


def gapped(highest: int, *, end: int = 0) -> Tokenizer:
    """Three tokens, the last with a high id."""
    model = models.WordLevel({"a": 0, "b": 1, "c": highest}, unk_token="a")
    return Tokenizer(Backend(model), bos_token_id=None, eos_token_ids=[end])


def test_the_highest_id_counts_not_the_number_of_tokens() -> None:
    tokenizer = gapped(toy_config().vocab_size)
    assert tokenizer.vocab_size == 3
    assert tokenizer.num_ids == toy_config().vocab_size + 1
    with pytest.raises(CheckpointRefused, match="the model") as refused:
        check_tokenizer(toy_config(), tokenizer, tokenizer.fingerprint)
    assert refused.value.reason == "tokenizer"
    fitting = gapped(toy_config().vocab_size - 1)
    check_tokenizer(toy_config(), fitting, fitting.fingerprint)


@pytest.mark.parametrize("value", [-1, "warm", True, 1e9])
def test_sampling_defaults_that_no_request_could_ask_for_are_refused(value: object) -> None:
    backend = toy_tokenizer().backend
    kept = Tokenizer(
        backend, bos_token_id=None, eos_token_ids=[0], generation={"temperature": value}
    )
    with pytest.raises(CheckpointRefused, match=r"generation_config\.json: temp") as refused:
        check_sampling(kept)
    assert refused.value.reason == "generation_config"
    check_sampling(toy_tokenizer())


@pytest.mark.parametrize("end", [toy_config().vocab_size, 10**9])
def test_an_end_token_that_the_model_has_not_is_refused(end: int) -> None:
    tokenizer = gapped(2, end=end)
    with pytest.raises(CheckpointRefused, match="begin or end") as refused:
        check_tokenizer(toy_config(), tokenizer, tokenizer.fingerprint)
    assert refused.value.reason == "tokenizer"


@pytest.mark.parametrize(("highest", "end"), [(300, 0), (2, 300)])
def test_such_a_tokenizer_is_not_imported(highest: int, end: int) -> None:
    with pytest.raises(ValueError, match="the model"):
        gapped(highest, end=end).without_ids_from(300)

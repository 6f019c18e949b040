import math

import pytest
import torch
import torch.nn.functional as F
from toys import toy_decoder

from trainer.step.evaluate import bits_per_byte, evaluate
from trainer.step.loss import IGNORED


def no_poll() -> None:
    """Nobody asks to stop."""


def test_bits_per_byte_is_nats_over_ln_2_over_bytes() -> None:
    assert bits_per_byte(8 * math.log(2), 4) == pytest.approx(2.0)


def test_all_scored_tokens_and_their_bytes_count_once() -> None:
    decoder = toy_decoder()
    tokens = torch.randint(0, 300, (5, 9), generator=torch.Generator().manual_seed(0))
    targets = tokens[:, 1:].clone()
    targets[4, 3:] = IGNORED
    batches = [(tokens[:2, :-1], targets[:2]), (tokens[2:, :-1], targets[2:])]
    token_bytes = torch.arange(300) % 5  # some stand for no bytes at all
    result = evaluate(decoder, batches, token_bytes, precision="float32", poll=no_poll)
    with torch.no_grad():
        nats = F.cross_entropy(
            decoder(tokens[:, :-1]).flatten(0, 1), targets.flatten(), reduction="sum"
        )
    scored = targets[targets != IGNORED]
    assert result.tokens == 35
    assert result.loss == pytest.approx(float(nats) / 35, rel=1e-6)
    expected = float(nats) / math.log(2) / int(token_bytes[scored].sum())
    assert result.bits_per_byte == pytest.approx(expected, rel=1e-6)


def test_an_untrained_model_is_about_as_good_as_guessing() -> None:
    tokens = torch.randint(0, 300, (8, 33), generator=torch.Generator().manual_seed(1))
    result = evaluate(
        toy_decoder(), [(tokens[:, :-1], tokens[:, 1:])], torch.ones(300, dtype=torch.int64),
        precision="float32", poll=no_poll,
    )  # fmt: skip
    assert result.loss == pytest.approx(math.log(300), rel=0.1)


def test_evaluating_draws_nothing_and_keeps_no_graph() -> None:
    decoder = toy_decoder().train()
    state = torch.get_rng_state()
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    evaluate(
        decoder, [(tokens, tokens)], torch.ones(300, dtype=torch.int64),
        precision="bfloat16", poll=no_poll,
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), state)
    assert not decoder.training
    assert all(parameter.grad is None for parameter in decoder.parameters())


def test_polling_before_each_batch_may_stop_it() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    tokens = torch.zeros(1, 8, dtype=torch.int64)
    with pytest.raises(KeyboardInterrupt):
        evaluate(
            toy_decoder(), [(tokens, tokens)], torch.ones(300, dtype=torch.int64),
            precision="float32", poll=stop,
        )  # fmt: skip

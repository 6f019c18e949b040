import math

import pytest
import torch
import torch.nn.functional as F
from toys import toy_config, toy_decoder

from trainer.step.loss import (
    IGNORED,
    PASS_TOKENS,
    batch_loss,
    count_scored,
    passes,
    summed_cross_entropy,
)


def test_the_sum_is_over_scored_tokens_alone() -> None:
    hidden = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(11, 8, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([[1, 2, IGNORED, 4, 5], [IGNORED, 0, 10, 3, 3]])
    total = summed_cross_entropy(hidden, lambda x: x @ weight.T, targets)
    logits = (hidden @ weight.T).double()
    expected = -sum(
        logits[b, t].log_softmax(-1)[targets[b, t]]
        for b in range(2)
        for t in range(5)
        if targets[b, t] != IGNORED
    )
    assert float(total) == pytest.approx(float(expected), rel=1e-6)
    assert count_scored([targets]) == 8
    assert count_scored(targets.unbind()) == 8


def test_half_precision_logits_are_summed_in_float32() -> None:
    total = summed_cross_entropy(
        torch.zeros(1, 4, 2, dtype=torch.bfloat16),
        lambda x: x.new_zeros(1, 4, 1000),
        torch.zeros(1, 4, dtype=torch.int64),
    )
    assert total.dtype == torch.float32
    assert float(total) == pytest.approx(4 * math.log(1000), rel=1e-6)


def test_a_batch_s_loss_is_that_of_the_decoder_s_logits() -> None:
    decoder = toy_decoder()
    tokens = torch.randint(0, 300, (3, 17), generator=torch.Generator().manual_seed(2))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    expected = F.cross_entropy(decoder(inputs).flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(batch_loss(decoder, inputs, targets), expected)


def test_long_micro_batches_pass_in_groups_of_rows_that_add_up() -> None:
    config = toy_config(max_position_embeddings=2048)
    shape = (3, 2048)
    inputs, targets = torch.randint(0, 300, (2, *shape), generator=torch.Generator().manual_seed(3))
    gradients = []
    for groups in ([(inputs, targets)], list(passes(inputs, targets))):
        decoder = toy_decoder(config=config).double()
        for rows, wanted in groups:
            assert rows.shape == wanted.shape
            batch_loss(decoder, rows, wanted).backward()
        gradients.append([weight.grad for weight in decoder.parameters()])
    assert [len(rows) for rows, _ in groups] == [2, 1]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


def test_a_row_of_any_length_is_a_group() -> None:
    inputs = torch.zeros(2, PASS_TOKENS + 1, dtype=torch.int64)
    assert [len(rows) for rows, _ in passes(inputs, inputs)] == [1, 1]


def test_dropout_is_on_in_training_mode_alone() -> None:
    decoder = toy_decoder(config=toy_config(dropout=0.5))
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    assert batch_loss(decoder, tokens, tokens) == batch_loss(decoder, tokens, tokens)
    decoder.train()
    assert batch_loss(decoder, tokens, tokens) != batch_loss(decoder, tokens, tokens)

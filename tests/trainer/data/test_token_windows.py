from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.token_files import TokenArray
from trainer.data.token_windows import TrainingWindows, validation_batches
from trainer.step.loss import IGNORED


def stream(size: int) -> TokenArray:
    return np.arange(size, dtype=np.uint16)


def windows(size: int, length: int, seed: int = 7) -> TrainingWindows:
    return TrainingWindows(stream(size), length, seed=seed, name="s")


@given(size=st.integers(2, 400), length=st.integers(1, 399), epoch=st.integers(0, 50))
def test_an_epoch_visits_disjoint_windows_once_each(size: int, length: int, epoch: int) -> None:
    if size <= length:
        return
    cut = windows(size, length)
    first = epoch * cut.num_windows
    starts = sorted(cut.start(n) for n in range(first, first + cut.num_windows))
    assert np.diff(starts).tolist() == [length] * (cut.num_windows - 1)
    assert starts[0] >= 0
    assert starts[-1] + length < size


def test_a_window_holds_its_inputs_and_one_target_more() -> None:
    cut = windows(100, 8)
    window = cut.read(3)
    assert window.tolist() == list(range(cut.start(3), cut.start(3) + 9))


def test_epochs_differ_in_order_and_in_borders() -> None:
    cut = windows(1000, 10)
    epochs = [[cut.start(e * 99 + n) for n in range(99)] for e in range(8)]
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert len({epoch[0] % 10 for epoch in epochs}) > 3


def test_every_token_is_a_target_in_some_epoch() -> None:
    cut = windows(100, 8)
    seen = {token for n in range(60 * cut.num_windows) for token in cut.read(n)[1:].tolist()}
    assert seen == set(range(1, 100))


def test_seeds_and_names_shuffle_differently() -> None:
    orders = {
        tuple(TrainingWindows(stream(500), 5, seed=seed, name=name).start(n) for n in range(20))
        for seed, name in ((1, "a"), (2, "a"), (1, "b"))
    }
    assert len(orders) == 3


def test_a_source_shorter_than_a_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="'s': 8 tokens do not fill one sequence of 8"):
        windows(8, 8)


@given(size=st.integers(2, 200), length=st.integers(1, 50), batch=st.integers(1, 8))
def test_validation_scores_every_token_but_the_first_exactly_once(
    size: int, length: int, batch: int
) -> None:
    targets: Counter[int] = Counter()
    for inputs, wanted in validation_batches(stream(size), length, batch):
        assert inputs.shape == wanted.shape
        assert inputs.shape[1] == length
        assert inputs.shape[0] <= batch
        scored = wanted != IGNORED
        assert torch.equal(inputs[scored] + 1, wanted[scored])
        targets.update(wanted[scored].tolist())
    assert targets == Counter(range(1, size))


def test_a_limited_validation_is_spread_over_the_text_and_the_same_each_time() -> None:
    limited = [y for _, y in validation_batches(stream(10_001), 10, 4, max_tokens=200)]
    again = [y for _, y in validation_batches(stream(10_001), 10, 4, max_tokens=200)]
    targets = torch.cat(limited)
    assert torch.equal(targets, torch.cat(again))
    assert targets.shape == (20, 10)
    assert targets[:, 0].diff().tolist() == [500] * 19


def test_a_limit_beyond_the_text_scores_all_of_it() -> None:
    batches = validation_batches(stream(100), 10, 4, max_tokens=1000)
    assert sum(int((y != IGNORED).sum()) for _, y in batches) == 99

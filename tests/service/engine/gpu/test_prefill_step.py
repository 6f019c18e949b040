"""Whole steps of flat rows, interpreted in float32, against the plain decoder."""

import pytest
import torch
from flat_oracle import (
    joined_weights,
    lively_decoder,
    llama_config,
    plain_hidden,
    poisoned_cache,
    rows_of,
)

pytest.importorskip("triton", reason="the kernels are written in Triton")

from lm.model.config import ModelConfig
from service.engine.gpu.flat.guess_step import GuessStep
from service.engine.gpu.flat.head_step import HeadStep
from service.engine.gpu.flat.prefill_step import PrefillStep
from service.engine.gpu.layout import Bucket, FlatChunk, lay_out

SLOTS, MAX_TOKENS = 3, 160


class Machine:
    """A decoder, one cache, and the tokens that each slot holds."""

    def __init__(self, config: ModelConfig) -> None:
        self.decoder = lively_decoder(config)
        self.weights = joined_weights(self.decoder)
        self.cache = poisoned_cache(config, SLOTS, MAX_TOKENS)
        self.sequences: dict[int, list[int]] = {}
        self.config = config
        self.generator = torch.Generator().manual_seed(5)

    def step(
        self,
        chunks: list[tuple[int, int, int]],
        bucket: Bucket,
        kind: type[PrefillStep | GuessStep] = PrefillStep,
    ) -> None:
        """Compute chunks (slot, start, count) and compare; later tokens of a slot are forgotten."""
        flat = []
        for slot, start, count in chunks:
            tokens = torch.randint(300, (count,), generator=self.generator).tolist()
            self.sequences[slot] = self.sequences.get(slot, [])[:start] + tokens
            flat.append(FlatChunk(slot, start, tokens, num_logits=min(2, count)))
        layout = lay_out(flat, bucket)
        rows, tiles = rows_of(layout, [0] * SLOTS)
        hidden = torch.empty(bucket.rows, self.config.hidden_size)
        keys = self.cache.key.clone()
        kind(self.config, self.weights, self.cache, rows, tiles, hidden, bucket.tile_rows).compute()
        expected = torch.cat(
            [plain_hidden(self.decoder, self.sequences[slot])[start:] for slot, start, _ in chunks]
        )
        torch.testing.assert_close(hidden[: len(expected)], expected, rtol=2e-5, atol=2e-5)
        assert hidden.isfinite().all()
        for slot, start, count in chunks:
            keys[:, slot, :, start : start + count] = self.cache.key[
                :, slot, :, start : start + count
            ]
        torch.testing.assert_close(self.cache.key, keys, rtol=0, atol=0, equal_nan=True)
        self.check_head(hidden, layout.yielding)

    def check_head(self, hidden: torch.Tensor, yielding: object) -> None:
        indices = torch.tensor([*torch.as_tensor(yielding).tolist(), -1], dtype=torch.int32)
        logits = torch.empty(len(indices), self.config.vocab_size)
        is_finite = torch.zeros(len(indices), dtype=torch.bool)
        HeadStep(self.config, self.weights, hidden, indices, logits, is_finite).compute()
        expected = self.decoder.head(hidden[indices[:-1].long()]).detach()
        torch.testing.assert_close(logits[:-1], expected)
        assert not logits[-1].any()
        assert is_finite.all()


@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize(("heads", "shared"), [(2, 2), (3, 1), (4, 1)])
def test_prompts_and_their_continuation_over_all_shapes(
    head_dim: int, heads: int, shared: int
) -> None:
    machine = Machine(llama_config(head_dim, heads, shared))
    machine.step([(2, 0, 5), (0, 0, 9)], Bucket(16, 16, 4))
    machine.step([(0, 9, 1), (2, 5, 8)], Bucket(16, 16, 4))


@pytest.mark.parametrize("length", [1, 17, 65])
def test_odd_lengths(length: int) -> None:
    machine = Machine(llama_config(32, 3, 1))
    machine.step([(1, 0, length)], Bucket(66, 64, 2))
    machine.step([(1, length, 4)], Bucket(16, 16, 2))


@pytest.mark.parametrize(("head_dim", "heads", "shared"), [(32, 2, 2), (64, 3, 1), (128, 2, 1)])
def test_guesses_of_each_width_in_six_kernels_a_layer(
    head_dim: int, heads: int, shared: int
) -> None:
    machine = Machine(llama_config(head_dim, heads, shared))
    machine.step([(1, 0, 6), (0, 0, 3)], Bucket(16, 16, 4))
    machine.step([(2, 0, 2), (1, 5, 8), (0, 3, 4)], Bucket(16, 16, 4), GuessStep)


def test_several_layers_a_slot_reused_and_guesses_of_each_width() -> None:
    machine = Machine(llama_config(32, 3, 1, layers=3))
    machine.step([(1, 0, 20), (0, 0, 3)], Bucket(32, 16, 4))
    machine.step([(2, 0, 7), (1, 20, 8), (0, 3, 4)], Bucket(32, 16, 4))
    # Of the guesses some were refused: their positions are written again. Slot 2 is a newcomer's.
    machine.step([(1, 22, 2), (2, 0, 5), (0, 5, 1)], Bucket(16, 16, 4))


def test_the_token_drawn_last_is_read_on_the_device() -> None:
    config = llama_config(32, 2, 1)
    decoder = lively_decoder(config)
    hidden = []
    for token_ids, last_tokens in (([5, 9, 200], [0, 0]), ([5, 9, -1], [17, 200])):
        rows, tiles = rows_of(
            lay_out([FlatChunk(1, 0, token_ids, 1)], Bucket(16, 16, 2)), last_tokens
        )
        hidden.append(torch.empty(16, config.hidden_size))
        cache = poisoned_cache(config, 2, 16)
        weights = joined_weights(decoder)
        PrefillStep(config, weights, cache, rows, tiles, hidden[-1], 16).compute()
    assert torch.equal(hidden[0][:3], hidden[1][:3])

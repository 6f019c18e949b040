"""The schedule and the size of the yardstick, by nanoGPT's README and configuration."""

import math

import pytest
import torch

from bench.training.character_model import LENGTH, learning_rate, make_decoder, mean_loss


def test_it_has_nanogpt_s_eight_hundred_thousand_parameters() -> None:
    # nanoGPT prints 0.80M: without the 64 x 128 position embeddings.
    parameters = make_decoder(65).config.num_parameters
    assert round((parameters - LENGTH * 128) / 1e6, 2) == 0.80


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    assert learning_rate(99) == pytest.approx(1e-3 * 100 / 101)
    assert learning_rate(100) == 1e-3
    assert learning_rate(1050) == pytest.approx((1e-3 + 1e-4) / 2)
    assert learning_rate(2000) == pytest.approx(1e-4)


def test_an_untrained_model_is_uniform_within_noise() -> None:
    token_ids = torch.arange(65).repeat(4)
    assert mean_loss(make_decoder(65).eval(), token_ids) == pytest.approx(math.log(65), abs=0.2)

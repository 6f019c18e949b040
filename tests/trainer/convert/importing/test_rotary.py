import dataclasses

import pytest
import torch
from torch import Tensor

from lm.huggingface.frequencies import check_frequencies
from lm.model.config import ModelConfig
from lm.model.rotary import rotary_table, rotate
from trainer.convert.importing.rotary import deinterleaved, guess_rotary

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=16,
)
NAME = "model.layers.0.self_attn.rotary_emb.inv_freq"


def frequencies(theta: float) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, 8, 2) / 8)


def rotate_neighbours(x: Tensor) -> Tensor:
    """Meta's way: each pair of neighbours is a complex number that turns; x [heads, T, D]."""
    angles = torch.outer(torch.arange(16.0), frequencies(CONFIG.rope_theta))
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(
        torch.ones_like(angles), angles
    )
    return torch.view_as_real(turned).flatten(-2)


def test_attention_scores_are_those_of_neighbours() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 32)
    weights = {f"{part}_proj.weight": torch.randn(32, 32) / 32 for part in "qk"}
    config = dataclasses.replace(CONFIG, num_key_value_heads=4)

    def heads(weight: Tensor) -> Tensor:
        return (x @ weight.T).unflatten(-1, (4, 8)).transpose(0, 1).contiguous()

    theirs = [rotate_neighbours(heads(weight)) for weight in weights.values()]
    table = rotary_table(16, 8, config.rope_theta)
    ours = [rotate(heads(weight), *table) for weight in deinterleaved(weights, config).values()]
    torch.testing.assert_close(ours[0] @ ours[1].mT, theirs[0] @ theirs[1].mT)


def test_only_query_and_key_rows_move_biases_too() -> None:
    rows = torch.arange(16.0)
    moved = deinterleaved(
        {"a.k_proj.bias": rows, "a.v_proj.bias": rows, "norm.weight": rows}, CONFIG
    )
    assert moved["a.k_proj.bias"].tolist() == [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]
    assert torch.equal(moved["a.v_proj.bias"], rows)
    assert torch.equal(moved["norm.weight"], rows)


def test_meta_s_names_mean_neighbours() -> None:
    assert guess_rotary({"layers.0.attention.wq.weight": torch.ones(1)}) == "interleaved"
    assert guess_rotary({"layers.0.self_attn.q_proj.weight": torch.ones(1)}) == "half"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_files_frequencies_must_be_the_recipes(dtype: torch.dtype) -> None:
    check_frequencies({NAME: frequencies(10_000.0).to(dtype)}, CONFIG)
    other = {NAME: frequencies(100_000.0).to(dtype)}
    with pytest.raises(ValueError, match=r"model\.rope_theta 10000, it says about 1e\+05"):
        check_frequencies(other, CONFIG)
    check_frequencies(other, dataclasses.replace(CONFIG, rope_theta=100_000.0))


def test_rotary_frequencies_and_learned_positions_do_not_go_together() -> None:
    learned = dataclasses.replace(CONFIG, positions="learned")
    check_frequencies({"wpe.weight": torch.ones(2)}, learned)
    with pytest.raises(ValueError, match="the file's model has rotary positions"):
        check_frequencies({NAME: frequencies(10_000.0)}, learned)

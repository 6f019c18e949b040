import math

import pytest
import torch
from torch import nn
from toys import toy_config, toy_decoder

from lm.model.decoder import Decoder
from trainer.recipe.sections import OptimizerConfig, PhaseConfig
from trainer.step.optimizer import Optimizer, Rates, rates_at

RATES = Rates(lr=1e-2, muon_lr=1e-2, weight_decay=0.1)


def with_gradients(decoder: Decoder, seed: int = 0, scale: float = 1.0) -> Decoder:
    generator = torch.Generator().manual_seed(seed)
    for parameter in decoder.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    return decoder


def optimizer_for(decoder: Decoder, *, reads_back: bool = True, **changes: object) -> Optimizer:
    config = OptimizerConfig.model_validate({"lr": 1e-2} | changes)
    return Optimizer(decoder.named_parameters(), config, reads_back=reads_back)


def test_adamw_makes_the_steps_that_torch_s_own_makes() -> None:
    ours, theirs = with_gradients(toy_decoder()), with_gradients(toy_decoder())
    optimizer = optimizer_for(ours, decay_all=True, grad_clip=None)
    reference = torch.optim.AdamW(
        theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    for _ in range(3):
        optimizer.step(RATES)
        reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weight_decay_shrinks_matrices_but_no_norm_bias_or_embedding(name: str) -> None:
    decoder = with_gradients(
        toy_decoder(config=toy_config(bias=True, positions="learned")), scale=0
    )
    before = {key: value.clone() for key, value in decoder.named_parameters()}
    optimizer_for(decoder, name=name).step(RATES)
    for key, value in decoder.named_parameters():
        is_decayed = value.ndim == 2 and "embed" not in key
        expected = before[key] * (1 - 1e-2 * 0.1) if is_decayed else before[key]
        torch.testing.assert_close(value, expected, msg=key)


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest() -> None:
    decoder = with_gradients(toy_decoder(config=toy_config(tie_word_embeddings=False)))
    optimizer = optimizer_for(decoder, name="muon")
    optimizer.step(RATES)
    kinds = {path.rpartition("/")[0]: path.rpartition("/")[2] for path in optimizer.state_tensors()}
    assert kinds.keys() == dict(decoder.named_parameters()).keys()
    for name, kind in kinds.items():
        is_hidden_matrix = name.endswith("_proj.weight")
        assert (kind == "momentum_buffer") is is_hidden_matrix, name


def test_a_tied_head_is_one_parameter_and_stays_tied() -> None:
    decoder = with_gradients(toy_decoder())
    optimizer_for(decoder).step(RATES)
    assert decoder.lm_head.weight is decoder.model.embed_tokens.weight


def test_gradients_are_clipped_to_the_global_norm_that_is_returned_unclipped() -> None:
    decoder = with_gradients(toy_decoder(), scale=100.0)
    expected = math.sqrt(sum(float((p.grad**2).sum()) for p in decoder.parameters()))
    norm = float(optimizer_for(decoder, grad_clip=1.0).step(RATES).norm)
    assert norm == pytest.approx(expected, rel=1e-5)
    clipped = math.sqrt(sum(float((p.grad**2).sum()) for p in decoder.parameters()))
    assert clipped == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_divisor_is_the_same_as_smaller_gradients(name: str) -> None:
    divided, small = with_gradients(toy_decoder(), scale=4.0), with_gradients(toy_decoder())
    norms = [
        float(optimizer_for(divided, name=name).step(RATES, divisor=4.0).norm),
        float(optimizer_for(small, name=name).step(RATES).norm),
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    for mine, other in zip(divided.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("reads_back", [True, False])
@pytest.mark.parametrize("is_loss", [True, False])
def test_a_loss_or_gradient_that_is_not_finite_touches_neither_weights_nor_moments(
    name: str, bad: float, reads_back: bool, is_loss: bool
) -> None:
    decoder = with_gradients(toy_decoder())
    optimizer = optimizer_for(decoder, name=name, reads_back=reads_back)
    optimizer.step(RATES, loss=torch.tensor(1.0))
    weights = {key: value.clone() for key, value in decoder.named_parameters()}
    moments = {key: value.clone() for key, value in optimizer.state_tensors().items()}
    with_gradients(decoder, seed=1)
    if not is_loss:
        for parameter in decoder.parameters():
            parameter.grad[0] = bad
    assert optimizer.step(RATES, loss=torch.tensor(bad if is_loss else 1.0)).skipped
    assert all(torch.equal(value, weights[key]) for key, value in decoder.named_parameters())
    assert all(torch.equal(value, moments[key]) for key, value in optimizer.state_tensors().items())
    with_gradients(decoder, seed=2)
    assert not optimizer.step(RATES).skipped
    assert not any(torch.equal(value, weights[key]) for key, value in decoder.named_parameters())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_device_that_decides_for_itself_makes_the_same_steps(name: str) -> None:
    one, other = with_gradients(toy_decoder()), with_gradients(toy_decoder())
    optimizers = [
        optimizer_for(one, name=name, reads_back=True, weight_decay=0.1),
        optimizer_for(other, name=name, reads_back=False, weight_decay=0.1),
    ]
    for seed in range(3):
        with_gradients(one, seed, scale=3.0), with_gradients(other, seed, scale=3.0)
        norms = [float(optimizer.step(RATES, divisor=2.0).norm) for optimizer in optimizers]
        assert norms[0] == norms[1]
    states = [optimizer.state_tensors() for optimizer in optimizers]
    assert states[0].keys() == states[1].keys()
    for key, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][key], msg=key)
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-3, rtol=0)  # bfloat16 in Newton-Schulz


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_loaded_state_goes_on_bit_for_bit(name: str) -> None:
    one, other = with_gradients(toy_decoder()), toy_decoder()
    first = optimizer_for(one, name=name)
    first.step(RATES)
    other.load_state_dict(one.state_dict())
    second = optimizer_for(other, name=name)
    second.load_state_tensors(first.state_tensors())
    for seed in (1, 2):
        with_gradients(one, seed), with_gradients(other, seed)
        assert first.step(RATES).norm == second.step(RATES).norm
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_loaded_state_is_a_copy() -> None:
    decoder = with_gradients(toy_decoder())
    optimizer = optimizer_for(decoder)
    optimizer.step(RATES)
    saved = {key: value.clone() for key, value in optimizer.state_tensors().items()}
    optimizer.load_state_tensors(saved)
    kept = {key: value.clone() for key, value in saved.items()}
    optimizer.step(RATES)
    assert all(torch.equal(saved[key], kept[key]) for key in saved)


def test_state_of_a_parameter_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'model\.layers\.7\.w', which this model does not have"):
        optimizer_for(toy_decoder()).load_state_tensors(
            {"model.layers.7.w/exp_avg": torch.zeros(1)}
        )


def test_a_state_that_lacks_a_part_or_has_another_shape_is_refused_by_name() -> None:
    decoder = with_gradients(toy_decoder())
    optimizer = optimizer_for(decoder)
    optimizer.step(RATES)
    saved = optimizer.state_tensors()
    name = "model.norm.weight"
    without = {key: value for key, value in saved.items() if key != f"{name}/exp_avg_sq"}
    with pytest.raises(ValueError, match=f"'{name}' is exp_avg, step"):
        optimizer_for(toy_decoder()).load_state_tensors(without)
    with pytest.raises(ValueError, match=f"'{name}/exp_avg' has another shape"):
        optimizer_for(toy_decoder()).load_state_tensors(saved | {f"{name}/exp_avg": torch.ones(1)})


def test_zero_grad_drops_every_gradient() -> None:
    decoder = with_gradients(toy_decoder())
    optimizer_for(decoder).zero_grad()
    assert all(parameter.grad is None for parameter in decoder.parameters())


def test_a_phase_replaces_peak_and_decay_and_scales_muon_along() -> None:
    config = OptimizerConfig(lr=1e-3, muon_lr=2e-2, weight_decay=0.1)
    plain = rates_at(config, PhaseConfig(name="a", steps=1), 0.5)
    assert plain == Rates(lr=5e-4, muon_lr=1e-2, weight_decay=0.1)
    changed = rates_at(config, PhaseConfig(name="b", steps=1, lr=1e-4, weight_decay=0.0), 0.5)
    assert changed.lr == pytest.approx(5e-5)
    assert changed.muon_lr == pytest.approx(1e-3)
    assert changed.weight_decay == 0.0


def test_parameters_may_be_any_named_ones() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = Optimizer([("w", parameter)], OptimizerConfig(lr=0.1))
    parameter.grad = torch.ones(3)
    assert float(optimizer.step(Rates(0.1, 0.1, 0.0)).norm) == pytest.approx(math.sqrt(3))
    assert bool((parameter < 1).all())

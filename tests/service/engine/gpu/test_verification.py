import torch
from serving import gpu_runner
from toys import toy_decoder

from service.engine.gpu.verification import distance, why_wrong


def test_right_kernels_pass() -> None:
    runner = gpu_runner(toy_decoder(0).double())
    assert distance(runner) < 1e-6
    assert why_wrong(runner) is None


def test_steps_over_other_weights_are_found_out() -> None:
    """As if a kernel read a matrix from the wrong place."""
    runner = gpu_runner(toy_decoder(0).double())
    right = runner.score

    def score_of_others(token_ids: list[int]) -> torch.Tensor:
        layer = runner._set.weights.layers[0]
        kept = layer.out.clone()
        layer.out.copy_(kept.roll(1, 0) + 0.3)
        try:
            return right(token_ids)
        finally:
            layer.out.copy_(kept)

    runner.score = score_of_others  # type: ignore[method-assign]
    reason = why_wrong(runner)
    assert reason is not None
    assert "away from the definition" in reason


def test_weights_that_are_not_finite_are_left_to_the_gate() -> None:
    runner = gpu_runner(toy_decoder(0).double())
    runner._set.weights.norm.fill_(torch.nan)
    assert why_wrong(runner) is None

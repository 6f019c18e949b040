"""Both sides train the same thing: equal first losses, and close ones after steps."""

import functools
import io
import json
from pathlib import Path

import pytest
import torch

from bench.training.pace import Enough, Pace
from bench.training.side import huggingface, ours
from bench.training.workload import begin, comparable, open_batches
from trainer.recipe.schema import Recipe

STEPS = 4


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return comparable(
        "tiny", "model.num_hidden_layers=1", "optimizer.lr=0.01", "sources.0.max_bytes=40000",
        "model.vocab_size=512", batch=(3, 32),
    )  # fmt: skip


def losses(out: io.StringIO) -> list[float]:
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert all(line["seconds"] > 0 for line in lines)
    return [line["loss"] for line in lines]


@pytest.mark.filterwarnings("ignore")  # theirs
def test_both_sides_see_the_same_losses(recipe: Recipe, tmp_path: Path) -> None:
    begin(recipe, tmp_path)
    curves = {}
    for side in ("ours", "huggingface", "huggingface-eager"):
        out = io.StringIO()
        pace = Pace([1, STEPS - 1], out, io.StringIO("\n\n"))
        theirs = functools.partial(huggingface, side=side, steps=STEPS)
        train = ours if side == "ours" else theirs
        with pytest.raises(Enough):
            train(recipe, tmp_path, pace)
        curves[side] = losses(out)
        assert len(curves[side]) == STEPS
    for other in ("huggingface", "huggingface-eager"):
        assert curves["ours"][0] == pytest.approx(curves[other][0], rel=1e-3)
        assert curves["ours"] == pytest.approx(curves[other], rel=1e-2)
    assert curves["ours"][-1] < curves["ours"][0] - 0.1


def test_batches_are_a_function_of_their_number(recipe: Recipe, tmp_path: Path) -> None:
    begin(recipe, tmp_path)
    first, second = (open_batches(recipe, tmp_path).micro_batch(3) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[0][:, 1:], first[1][:, :-1])

"""The arithmetic of ``bench.recipes``."""

from bench.recipes import figures
from trainer.recipe.recipes import load_recipe, override


def test_seconds_are_those_of_a_micro_step_and_the_first_optimizer_step_is_warm_up() -> None:
    recipe = override(load_recipe("tiny"), ["batch.grad_accum_steps=2"])  # 8 x 256, 2,000 steps
    ends = ((4_096, 9.0, 8.0), (8_192, 13.0, 7.0), (12_288, 19.0, 6.0))
    lines = [
        {"tokens_seen": tokens, "train_seconds": seconds, "loss": loss}
        for tokens, seconds, loss in ends
    ]
    row = figures(recipe, lines, peak_bytes=3 * 2**30)
    assert row["seconds"] == 2.5  # of 4 / 2 and 6 / 2
    assert row["micro-steps"] == 6
    assert row["tokens/s"] == round(8 * 256 / 2.5)
    assert row["peak GiB"] == 3.0
    assert row["whole run"] == f"{2_000 * 2 * 2.5 / 3600:.1f} h"
    assert (row["first loss"], row["last loss"]) == (8.0, 6.0)

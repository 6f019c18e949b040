"""What scaling down keeps and what it makes small; that it runs is ``recipes/test_smoke_runs``."""

import pytest
from toy_run import toy_recipe

from trainer.recipe.recipes import list_recipes, load_recipe
from trainer.recipe.schema import Recipe
from trainer.recipe.smoke import scaled_down
from trainer.recipe.step_plan import Plan, Window

RECIPES = [load_recipe(name) for name in list_recipes()]


@pytest.fixture(params=RECIPES, ids=lambda recipe: recipe.name)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    assert isinstance(request.param, Recipe)
    return request.param


def windows(recipe: Recipe) -> list[Window]:
    plan, found, micro_step = Plan(recipe), list[Window](), 0
    while (window := plan.window(micro_step)) is not None:
        found.append(window)
        micro_step = window.micro_steps.stop
    return found


def test_a_small_recipe_is_a_recipe_of_its_own_name(recipe: Recipe) -> None:
    small = scaled_down(recipe)
    assert small.name == f"{recipe.name}-smoke"
    assert Recipe.from_dict(small.to_dict()) == small
    assert small.model.num_parameters < 200_000
    assert Plan(small).num_micro_steps < 100


def test_the_same_recipe_comes_out_every_time(recipe: Recipe) -> None:
    assert scaled_down(recipe) == scaled_down(load_recipe(recipe.name))


def test_the_architecture_keeps_its_switches_and_ratios(recipe: Recipe) -> None:
    large, small = recipe.model, scaled_down(recipe).model
    for switch in (
        "positions", "norm", "mlp", "bias", "tie_word_embeddings", "residual_scale", "dropout",
        "norm_eps", "rope_theta",
    ):  # fmt: skip
        assert getattr(small, switch) == getattr(large, switch), switch
    for model in (large, small):
        assert model.num_attention_heads // model.num_key_value_heads == (
            large.num_attention_heads // large.num_key_value_heads
        )
    ratio = large.intermediate_size / large.hidden_size
    assert small.intermediate_size / small.hidden_size == pytest.approx(ratio, rel=0.05)
    assert small.num_hidden_layers >= 2
    assert small.num_attention_heads >= 2


def test_what_is_not_size_or_length_stays(recipe: Recipe) -> None:
    small = scaled_down(recipe)
    same = (
        "unit", "optimizer", "precision", "float32_matmul", "activation_checkpointing",
        "sample_prompts", "seed",
    )  # fmt: skip
    for name in same:
        assert getattr(small, name) == getattr(recipe, name), name
    assert small.retention.keep_last == recipe.retention.keep_last
    assert [source.corpus for source in small.sources] == [s.corpus for s in recipe.sources]
    assert [stage.weights for stage in small.stages] == [s.weights for s in recipe.stages]


def test_accumulation_and_batches_stay_plural_where_they_were(recipe: Recipe) -> None:
    large, small = recipe.batch, scaled_down(recipe).batch
    assert (small.grad_accum_steps > 1) == (large.grad_accum_steps > 1)
    assert (small.micro_batch > 1) == (large.micro_batch > 1)
    assert small.length <= 16


def test_the_tokenizer_is_trained_from_slices_of_text(recipe: Recipe) -> None:
    small = scaled_down(recipe)
    assert small.tokenizer.source == "train"
    assert small.tokenizer.vocab_size == small.model.vocab_size == 320
    assert all(source.max_bytes == 20_000 for source in small.sources)


def test_what_happens_more_than_once_still_does(recipe: Recipe) -> None:
    small = scaled_down(recipe)
    assert Plan(small).num_steps >= 20
    for cadence in ("checkpoint_every", "eval_every", "sample_every"):
        times, small_times = (
            Plan(run).num_steps // getattr(run.cadence, cadence) for run in (recipe, small)
        )
        assert small_times >= min(times, 4), cadence
    assert small.cadence.log_every == 1
    assert small.cadence.eval_tokens <= 64
    assert small.cadence.sample_tokens <= 4


def test_phases_keep_their_rates_and_the_course_of_their_schedules(recipe: Recipe) -> None:
    """At the middle of every phase the learning rate is nearly that of the large one."""
    small = scaled_down(recipe)
    for large_phase, small_phase in zip(recipe.phases, small.phases, strict=True):
        assert small_phase.lr == large_phase.lr
        assert small_phase.weight_decay == large_phase.weight_decay
        assert small_phase.schedule.name == large_phase.schedule.name
        factors = [
            found[len(found) // 2].factor
            for run in (recipe, small)
            if (found := _some_windows(run, large_phase.name))
        ]
        assert factors[0] == pytest.approx(factors[1], abs=0.1)


def _some_windows(recipe: Recipe, phase: str) -> list[Window]:
    plan = Plan(recipe)
    first = 0
    for candidate in plan.phases:
        steps = candidate.steps * (plan.accumulation if plan.unit == "optimizer" else 1)
        if candidate.name == phase:
            middle = first + steps // 2 // plan.accumulation * plan.accumulation
            window = plan.window(middle)
            assert window is not None
            return [window]
        first += steps
    return []


def test_a_warm_up_stays_a_warm_up(recipe: Recipe) -> None:
    large, small = recipe.phases[0].schedule, scaled_down(recipe).phases[0].schedule
    assert (small.warmup_steps > 0) == (large.warmup_steps > 0)


def test_micro_steps_still_end_a_phase_with_a_window_cut_short() -> None:
    small = scaled_down(load_recipe("smollm2-135m"))
    sizes = [len(window.micro_steps) for window in windows(small)]
    assert sizes == [2] * 12 + [2, 1]
    assert Plan(small).horizons == (12, 2)


def test_the_learned_recipe_stands_in_its_warm_up_as_before() -> None:
    small = scaled_down(load_recipe("smollm2-135m-learned")).phases[0].schedule
    assert small.warmup_steps == 10  # of 24 steps, as 2,000 of 5,000
    assert small.decay_start == pytest.approx(1_600_000 * 24 / 5_050, rel=0.01)
    assert small.horizon == pytest.approx(2_000_000 * 24 / 5_050, rel=0.01)


def test_the_curriculum_keeps_every_stage_and_the_last_begins_with_its_phase() -> None:
    small = scaled_down(load_recipe("smollm2-135m-curriculum"))
    assert [stage.first_step for stage in small.stages] == [0, 5, 10, 14, 24]
    assert [phase.steps for phase in small.phases] == [24, 3]
    assert Plan(small).horizons == (27, 27)
    factors = [window.factor for window in windows(small)]
    assert factors[0] == 0.0
    assert factors[1] == 1.0
    assert factors[1:] == sorted(factors[1:], reverse=True)
    assert 0.5 < factors[-1] < 0.51


def test_phases_that_made_a_recipe_longer_are_phases_too() -> None:
    small = scaled_down(toy_recipe("extension=[{name: extension, steps: 12}]"))
    assert [phase.steps for phase in small.all_phases] == [8, 4, 12]
    assert len(small.extension) == 1


def test_milestones_and_clocks_shrink_too() -> None:
    large = toy_recipe(
        "phases=[{name: all, steps: 240}]", "retention.keep_every=100",
        "retention.keep_steps=[10, 239]", "cadence.checkpoint_seconds=20",
    )  # fmt: skip
    small = scaled_down(large)
    assert small.retention.keep_every == 10
    assert small.retention.keep_steps == (1, 24)
    assert small.cadence.checkpoint_seconds == pytest.approx(2.0)


def test_stages_that_fall_together_are_kept_apart() -> None:
    stages = ", ".join(
        f"{{name: s{step}, first_step: {step}, weights: {{math: 1}}}}" for step in (0, 1, 2, 2400)
    )
    large = toy_recipe("phases=[{name: all, steps: 2400}]", f"stages=[{stages}]")
    assert [stage.first_step for stage in scaled_down(large).stages] == [0, 1, 2, 24]


def test_what_is_small_already_is_not_made_larger() -> None:
    small = scaled_down(
        toy_recipe("sources.0.max_bytes=9000", "batch.length=8", "model.num_hidden_layers=1")
    )
    assert small.sources[0].max_bytes == 9_000
    assert (small.batch.length, small.model.num_hidden_layers) == (8, 1)

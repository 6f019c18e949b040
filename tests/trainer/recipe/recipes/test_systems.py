"""The systems that the recipes reproduce, as one table: a row is a field, a column a recipe."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.recipe.recipes import load_recipe
from trainer.recipe.schema import Recipe
from trainer.recipe.step_plan import Plan
from trainer.step.optimizer import rates_at

RECIPES = (
    "smollm2-135m", "smollm2-135m-learned", "smollm2-135m-untied", "gpt-80m",
    "smollm2-135m-curriculum", "smollm2-135m-official",
)  # fmt: skip

Read = Callable[[Recipe], Any]


def _schedule(recipe: Recipe) -> tuple[Any, ...]:
    """Name, warm-up and floor of the first phase's schedule."""
    schedule = recipe.phases[0].schedule
    return schedule.name, schedule.warmup_steps, schedule.floor


def _second_phase(recipe: Recipe) -> tuple[Any, ...] | None:
    """Steps, learning rate at its first step, and weight decay."""
    if len(recipe.phases) == 1:
        return None
    plan = Plan(recipe)
    first = recipe.phases[0].steps * (plan.accumulation if recipe.unit == "optimizer" else 1)
    window = plan.window(first)
    assert window is not None
    assert window.phase_step == 0
    rates = rates_at(recipe.optimizer, window.phase, window.factor)
    return recipe.phases[1].steps, pytest.approx(rates.lr), rates.weight_decay


# fmt: off
TABLE: dict[str, tuple[Read, list[Any]]] = {
    "layers x hidden": (
        lambda r: (r.model.num_hidden_layers, r.model.hidden_size),
        [(30, 576), (30, 576), (30, 576), (6, 768), (30, 576), (30, 576)],
    ),
    "query / KV heads": (
        lambda r: (r.model.num_attention_heads, r.model.num_key_value_heads),
        [(9, 3), (9, 9), (9, 3), (12, 12), (9, 3), (9, 3)],
    ),
    "MLP": (
        lambda r: (r.model.mlp, r.model.intermediate_size),
        [("swiglu", 1536), ("gelu", 1536), ("swiglu", 1536), ("gelu", 3072), ("swiglu", 1536),
         ("swiglu", 1536)],
    ),
    "positions": (
        lambda r: (r.model.positions, r.model.max_position_embeddings),
        [("rope", 2048), ("learned", 1024), ("rope", 2048), ("learned", 128), ("rope", 2048),
         ("rope", 2048)],
    ),
    "rope base": (
        lambda r: r.model.rope_theta if r.model.positions == "rope" else None,
        [1e4, None, 1e4, None, 1e4, 1e4],
    ),
    "norm": (
        lambda r: (r.model.norm, r.model.norm_eps),
        [("rmsnorm", 1e-5), ("rmsnorm", 1e-5), ("rmsnorm", 1e-5), ("layernorm", 1e-5),
         ("rmsnorm", 1e-5), ("rmsnorm", 1e-5)],
    ),
    "residual scale": (
        lambda r: r.model.residual_scale,
        [1.0, pytest.approx(2**-0.5, abs=1e-15), 1.0, 1.0, 1.0, 1.0],
    ),
    "biases": (lambda r: r.model.bias, [False, False, False, True, False, False]),
    "tied head": (
        lambda r: r.model.tie_word_embeddings, [True, True, False, True, True, True],
    ),
    "dropout": (lambda r: r.model.dropout, [0.0, 0.0, 0.0, 0.1, 0.0, 0.0]),
    "initial std": (
        lambda r: r.model.init_std,
        [pytest.approx(1 / 24)] * 3 + [0.02] + [pytest.approx(1 / 24, abs=1e-7)] * 2,
    ),
    "parameters": (
        lambda r: r.model.num_parameters,
        [134_515_008, 121_833_792, 162_826_560, 80_375_808, 134_515_008, 134_515_008],
    ),
    "vocabulary": (
        lambda r: (r.model.vocab_size, r.tokenizer.vocab_size, r.tokenizer.source),
        [(49_152, 49_152, "hub:HuggingFaceTB/cosmo2-tokenizer")] * 6,
    ),
    "data": (
        lambda r: [source.corpus for source in r.sources],
        [["shakespeare"]] * 4 + [["shakespeare", "code", "math"], ["shakespeare"]],
    ),
    "micro-batch x length": (
        lambda r: (r.batch.micro_batch, r.batch.length),
        [(8, 2048), (4, 256), (4, 512), (2, 128), (4, 128), (8, 2048)],
    ),
    "gradient accumulation": (lambda r: r.batch.grad_accum_steps, [4, 1, 1, 1, 8, 64]),
    "tokens an optimizer step": (
        lambda r: r.batch.micro_batch * r.batch.length * r.batch.grad_accum_steps,
        [65_536, 1_024, 2_048, 256, 4_096, 1_048_576],
    ),
    "what a step counts": (lambda r: r.unit, ["micro"] + ["optimizer"] * 5),
    "optimizer, peak rate": (
        lambda r: (r.optimizer.name, r.optimizer.lr),
        [("adamw", 3e-4), ("adamw", 3e-4), ("adamw", 3e-3), ("adamw", 3e-4), ("adamw", 6e-4),
         ("adamw", 3e-3)],
    ),
    "betas": (
        lambda r: r.optimizer.betas,
        [(0.9, 0.95), (0.9, 0.95), (0.9, 0.95), (0.9, 0.999), (0.9, 0.95), (0.9, 0.95)],
    ),
    "epsilon": (lambda r: r.optimizer.eps, [1e-8] * 6),
    "weight decay": (lambda r: r.optimizer.weight_decay, [0.01] * 6),
    "gradient clipping": (lambda r: r.optimizer.grad_clip, [1.0] * 6),
    "schedule: warm-up, floor": (
        _schedule,
        [("linear", 100, 0.0), ("wsd", 2_000, 0.0), ("constant", 0, 0.0), ("cosine", 0, 0.0),
         ("cosine", 100, 0.5), ("wsd", 2_000, 0.0)],
    ),
    "decay start": (
        lambda r: r.phases[0].schedule.decay_start,
        [None, 1_600_000, None, None, None, 1_600_000],
    ),
    "horizon, optimizer steps": (
        lambda r: Plan(r).horizons[0], [1_250, 2_000_000, 5_000, 5_000, 5_050, 2_000_000],
    ),
    "precision": (
        lambda r: (r.precision, r.float32_matmul),
        [("bfloat16", "highest"), ("float32", "high"), ("float32", "highest"),
         ("float16", "highest"), ("auto", "highest"), ("bfloat16", "highest")],
    ),
    "activation checkpointing": (
        lambda r: r.activation_checkpointing, [True, False, False, False, False, False],
    ),
    "first phase": (lambda r: r.phases[0].steps, [5_000] * 5 + [2_000_000]),
    "second phase: steps, rate, decay": (
        _second_phase,
        [(50, 3e-5, 0.01), (50, 3e-4, 0.01), (50, 3e-3, 0.01), (50, 1e-4, 0.02),
         (50, pytest.approx(3e-4, rel=1e-3), 0.01), None],
    ),
    "steps in all": (lambda r: Plan(r).num_steps, [5_050] * 5 + [2_000_000]),
    "checkpoint every": (lambda r: r.cadence.checkpoint_every, [500, 500, 50, 200, 500, 2_000]),
    "sample every": (lambda r: r.cadence.sample_every, [500] * 5 + [2_000]),
    "tokens of a sample": (lambda r: r.cadence.sample_tokens, [64, 64, 64, 50, 64, 64]),
    "kept": (lambda r: (r.retention.keep_last, r.retention.keep_best), [(3, True)] * 6),
    "first prompt": (
        lambda r: r.sample_prompts[0],
        ["First Citizen:"] * 3 + ["The quick brown fox"] + ["First Citizen:"] * 2,
    ),
}
# fmt: on


@pytest.mark.parametrize("row", TABLE)
@pytest.mark.parametrize("name", RECIPES)
def test_the_table(name: str, row: str) -> None:
    read, values = TABLE[row]
    assert len(values) == len(RECIPES)
    assert read(load_recipe(name)) == values[RECIPES.index(name)]


def test_the_curriculum_s_stages() -> None:
    recipe = load_recipe("smollm2-135m-curriculum")
    assert [(stage.name, stage.first_step, dict(stage.weights)) for stage in recipe.stages] == [
        ("foundation", 0, {"input": 1.0}),
        ("general and code", 1_000, {"input": 0.8, "code": 0.2}),
        ("specialised", 2_000, {"input": 0.6, "code": 0.2, "math": 0.2}),
        ("refinement", 3_000, {"input": 0.4, "code": 0.3, "math": 0.3}),
        ("final polish", 5_000, {"input": 0.4, "code": 0.3, "math": 0.3}),
    ]
    assert recipe.phases[0].steps == recipe.stages[-1].first_step
    assert [source.name for source in recipe.sources] == ["input", "code", "math"]


UNSAID = {
    "smollm2-135m": {
        "max_position_embeddings", "rope_theta", "validation_plays", "betas", "weight_decay",
        "grad_clip", "warmup_steps", "eval_every", "sample_prompts",
    },
    "smollm2-135m-learned": {
        "mlp", "validation_plays", "micro_batch", "length", "lr", "betas", "weight_decay",
        "eval_every", "sample_prompts",
    },
    "smollm2-135m-untied": {
        "max_position_embeddings", "rope_theta", "validation_plays", "weight_decay", "grad_clip",
        "eval_every",
    },
    "gpt-80m": {
        "bias", "initializer_range", "validation_plays", "betas", "weight_decay", "grad_clip",
        "schedule", "eval_every", "eval_tokens",
    },
    "smollm2-135m-curriculum": {
        "rope_theta", "validation_plays", "corpus", "betas", "weight_decay", "grad_clip",
        "warmup_steps", "precision", "checkpoint_every", "eval_every",
    },
    "smollm2-135m-official": {
        "validation_plays", "checkpoint_every", "eval_every", "sample_every", "sample_prompts",
    },
}  # fmt: skip
"""What no source gives."""


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_source_does_not_give_is_marked_in_its_file(name: str) -> None:
    file = Path(__file__).parents[4] / "trainer" / "recipe" / "recipes" / f"{name}.yaml"
    marked = {
        line.partition(":")[0].strip(" -")
        for line in file.read_text("utf-8").splitlines()
        if "# not in the source" in line
    }
    assert marked == UNSAID[name]

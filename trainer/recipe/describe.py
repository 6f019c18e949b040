"""An architecture in figures: every kind of weight with its shape, sums by part, and the cost.

Built from the real modules on the ``meta`` device, so the table cannot differ from what trains,
and a model of any size is described without its memory.
"""

import re
from collections.abc import Iterator

import torch
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lm.model.config import ModelConfig
from lm.model.decoder import Decoder
from trainer.recipe.recipes import list_recipes, load_recipe
from trainer.recipe.schema import Recipe
from trainer.recipe.step_plan import Plan

_LAYER = re.compile(r"\.layers\.(\d+)\.")


def describe(recipe: Recipe) -> RenderableType:
    """Everything that ``trainer describe`` prints about a recipe."""
    return Group(
        Text(f"{recipe.name}: {recipe.description}\n"),
        architecture_table(recipe.model),
        Text(),
        parts_table(recipe.model),
        Text(),
        cost_table(recipe),
        Text(f"\nTotal: {recipe.model.num_parameters:,} trainable parameters", style="bold"),
    )


def print_description(recipe: Recipe, console: Console | None = None) -> None:
    """Print to standard output, or to the given console."""
    (console or Console()).print(describe(recipe))


def summary(config: ModelConfig) -> str:
    """An architecture and its parameters by part, in one line for a log."""
    parts = ", ".join(f"{part} {count:,}" for part, count in config.parameter_counts().items())
    return (
        f"{config.num_hidden_layers} layers of {config.hidden_size}, "
        f"{config.num_attention_heads} query and {config.num_key_value_heads} key/value heads, "
        f"{config.mlp} {config.intermediate_size}, {config.positions} positions, {config.norm}, "
        f"{'tied' if config.tie_word_embeddings else 'untied'} head; "
        f"{config.num_parameters:,} parameters: {parts}"
    )


def print_recipes(console: Console | None = None) -> None:
    """Print the recipes that come with nestling, one line each."""
    table = _table("recipe", "parameters", "description")
    for name in list_recipes():
        recipe = load_recipe(name)
        table.add_row(name, f"{recipe.model.num_parameters:,}", recipe.description)
    (console or Console()).print(table)


def architecture_table(config: ModelConfig) -> Table:
    """One row for each kind of weight; a weight that every layer has is shown once."""
    table = _table("weight", "shape", "each", "x", "total")
    in_layers = False
    for name, shape, times in weights(config):
        short = name.removeprefix("model.").removesuffix(".weight")
        if (inner := short.removeprefix("layers.*.")) != short:
            if not in_layers:
                table.add_row(f"in each of {config.num_hidden_layers} layers", style="dim")
            short = f"  {inner}"
        in_layers = inner != short
        dimensions = " x ".join(f"{size:,}" for size in shape)
        each = shape.numel()
        table.add_row(short, dimensions, f"{each:,}", f"{times}", f"{each * times:,}")
    if config.tie_word_embeddings:
        table.add_row("lm_head", "tied to embed_tokens", "", "", "0")
    return table


def weights(config: ModelConfig) -> Iterator[tuple[str, torch.Size, int]]:
    """Name, shape and number of times of each kind of weight; a layer's number is ``*``."""
    with torch.device("meta"):
        decoder = Decoder(config)
    for name, parameter in decoder.named_parameters():
        if _LAYER.search(name) is None:
            yield name, parameter.shape, 1
        elif ".layers.0." in name:
            yield (
                name.replace(".layers.0.", ".layers.*."),
                parameter.shape,
                config.num_hidden_layers,
            )


def parts_table(config: ModelConfig) -> Table:
    """Parameters by part, with their share."""
    table = _table("part", "parameters", "share")
    for part, count in config.parameter_counts().items():
        table.add_row(part, f"{count:,}", f"{count / config.num_parameters:.1%}")
    table.add_section()
    table.add_row("total", f"{config.num_parameters:,}", "100.0%", style="bold")
    return table


def cost_table(recipe: Recipe) -> Table:
    """What a step takes and a token costs."""
    config, batch, plan = recipe.model, recipe.batch, Plan(recipe)
    tokens = batch.micro_batch * batch.length * batch.grad_accum_steps
    steps = plan.optimizer_step(plan.num_micro_steps)
    training_bytes = config.num_parameters * 4 * 4  # weights, gradients and two moments
    table = Table("cost", "", box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_row("heads", f"{config.num_attention_heads} query, {_key_value_heads(config)}")
    table.add_row("positions, norm, MLP", f"{config.positions}, {config.norm}, {config.mlp}")
    table.add_row("context", f"{config.max_position_embeddings:,} tokens")
    table.add_row("training FLOPs", f"{config.flops_per_token(batch.length):,} a token")
    table.add_row(
        "optimizer step",
        f"{tokens:,} tokens: {batch.micro_batch} x {batch.length} x {batch.grad_accum_steps}",
    )
    table.add_row("steps", f"{plan.num_steps:,}, which count {plan.unit} steps")
    table.add_row("run", f"{steps:,} optimizer steps, {steps * tokens:,} tokens at most")
    table.add_row("weights and AdamW state", f"{training_bytes / 2**20:,.1f} MiB in float32")
    table.add_row("KV cache", f"{config.kv_bytes_per_token(2):,} bytes a token in bfloat16")
    return table


def _key_value_heads(config: ModelConfig) -> str:
    return f"{config.num_key_value_heads} key/value, {config.head_dim} wide"


def _table(*columns: str) -> Table:
    """Words to the left, figures to the right."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        is_figure = column in {"parameters", "share", "each", "x", "total"}
        wraps = column == "description"
        table.add_column(column, justify="right" if is_figure else "left", no_wrap=not wraps)
    return table

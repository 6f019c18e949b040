"""``checkpoint_step_N.pt``: the dict that training scripts pass to ``torch.save``.

``model_state_dict``, ``optimizer_state_dict``, ``scheduler_state_dict``, ``step`` and ``loss``, of
tensors and plain data alone, so that ``torch.load`` opens it with ``weights_only=True``.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lm.model.decoder import Decoder
from lm.volume.content import TIED_HEAD
from trainer.convert.exporting.source import Source
from trainer.recipe.schema import Recipe
from trainer.recipe.sections import OptimizerConfig
from trainer.recipe.step_plan import Plan, Window
from trainer.step.optimizer import rates_at


def file_name(source: Source) -> str:
    """Name of the file in the directory of the export."""
    return f"checkpoint_step_{source.step.number}.pt"


def write_torch(source: Source, directory: Path) -> None:
    """Write the dict; parts of a training state are there where the step has one."""
    with torch.device("meta"):
        names = sorted(dict(Decoder(source.config).named_parameters()), key=_order)
    weights = {name: source.weights[name] for name in names}
    if source.config.tie_word_embeddings:
        weights[TIED_HEAD] = weights["model.embed_tokens.weight"]
    metrics = source.step.manifest.details.metrics
    content: dict[str, Any] = {
        "model_state_dict": weights,
        "step": source.step.number,
        "loss": metrics.get("train_loss"),
        "config": source.config.to_dict(),
    }
    if source.state is not None and source.recipe is not None:
        micro_step = source.state.counters.micro_step
        content |= _training(source, source.recipe, micro_step, names)
    torch.save(content, directory / file_name(source))


def _order(name: str) -> tuple[int, bool]:
    """As transformers' Llama lists its parameters: a block's norms after its matrices."""
    parts = name.split(".")
    if "layers" not in parts:
        return (-1 if ".embed_" in name else 1 << 30, name == TIED_HEAD)
    return int(parts[parts.index("layers") + 1]), "layernorm" in name


def _training(source: Source, recipe: Recipe, micro_step: int, names: list[str]) -> dict[str, Any]:
    """States of AdamW and its schedule; Muon's moments would fit no optimizer of theirs."""
    plan = Plan(recipe)
    steps, lr = plan.optimizer_step(micro_step), _next_lr(plan, micro_step, recipe.optimizer)
    schedule = {"last_epoch": steps, "_step_count": steps + 1, "_last_lr": [lr]}
    if recipe.optimizer.name != "adamw":
        return {"scheduler_state_dict": schedule}
    return {
        "optimizer_state_dict": _adamw(source, recipe.optimizer, names, lr),
        "scheduler_state_dict": schedule,
    }


def _next_lr(plan: Plan, micro_step: int, config: OptimizerConfig) -> float:
    """Learning rate of the step that would follow; past the end, where the schedule stands."""
    window = plan.window(micro_step)
    if window is None:
        last = len(plan.phases) - 1
        done = plan.optimizer_steps_of(last)
        window = Window(plan.phases[last], done, plan.horizons[last], range(0))
    return rates_at(config, window.phase, window.factor).lr


def _adamw(source: Source, config: OptimizerConfig, names: list[str], lr: float) -> dict[str, Any]:
    """What ``torch.optim.AdamW`` over the named weights, in one group, takes as its state."""
    parameters = {name: nn.Parameter(source.weights[name]) for name in names}
    optimizer = torch.optim.AdamW(
        list(parameters.items()),
        lr=lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    for path, moment in source.moments.items():
        name, _, key = path.rpartition("/")
        optimizer.state[parameters[name]][key] = moment
    return optimizer.state_dict()

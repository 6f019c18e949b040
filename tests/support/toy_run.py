"""A recipe that trains in a fraction of a second, and what a run of it left behind."""

import json
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from rich.console import Console
from torch import Tensor

from lm.volume import newest_step
from trainer.recipe.changes import Amendment
from trainer.recipe.recipes import override
from trainer.recipe.schema import Recipe
from trainer.run import assemble as run
from trainer.run.interrupt import Interrupt
from trainer.run.loop import Ending

MACHINE_KEYS = {
    "seconds",
    "tokens_per_s",
    "share_of_peak",
    "train_seconds",
    "resident_bytes",
    "gpu_bytes",
}
CHECKPOINT_KINDS = {"snapshot", "published"}

_RECIPE = {
    "name": "toy",
    "description": "everything small",
    "model": {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "dropout": 0.1,
    },
    "tokenizer": {"vocab_size": 300},
    "sources": [{"name": "math", "corpus": "math", "max_bytes": 20000}],
    "batch": {"micro_batch": 2, "length": 16, "grad_accum_steps": 2},
    "optimizer": {"name": "muon", "lr": 3e-3, "weight_decay": 0.01},
    "phases": [
        {"name": "one", "steps": 8, "schedule": {"name": "cosine", "warmup_steps": 2}},
        {"name": "two", "steps": 4, "lr": 1e-3, "schedule": {"name": "constant"}},
    ],
    "precision": "float32",
    "cadence": {
        "checkpoint_every": 5,
        "eval_every": 4,
        "eval_tokens": 128,
        "sample_every": 3,
        "sample_tokens": 4,
        "log_every": 1,
    },
    "sample_prompts": ["1 + 1", "2"],
}


class StopAtPoll(Interrupt):
    """An interrupt that comes at the n-th time that anyone asks for it."""

    def __init__(self, poll: int) -> None:
        super().__init__()
        self.polls_left = poll

    @property
    def requested(self) -> bool:
        self.polls_left -= 1
        return self.polls_left < 0


def toy_recipe(*overrides: str) -> Recipe:
    """The toy recipe with values replaced, as ``optimizer.lr=1e-3``."""
    return override(Recipe.from_dict(_RECIPE), overrides)


def train_toy(
    volume: Path,
    recipe: Recipe | None = None,
    *,
    last_step: int | None = None,
    amendment: Amendment | None = None,
    interrupt: Interrupt | None = None,
    threads: int = 1,
    device: str = "cpu",
    reads_back: bool | None = None,
) -> Ending:
    """Train a run named ``toy`` from where it stands, on one thread."""
    # On a busy machine two threads wait for each other, many times longer than they compute.
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return run.train(
            recipe or toy_recipe(),
            volume / "toy",
            device=device,
            last_step=last_step,
            amendment=amendment,
            interrupt=interrupt or Interrupt(),
            console=Console(file=StringIO()),
            reads_back=reads_back,
        )
    finally:
        torch.set_num_threads(threads_before)


def tensors_of(volume: Path) -> dict[str, Tensor]:
    """Weights and moments of the newest step."""
    step = newest_step(volume / "toy")
    assert step is not None
    return {
        f"{name}:{key}": tensor
        for name in ("model.safetensors", "training_state.safetensors")
        for key, tensor in safetensors.torch.load_file(step.path / name).items()
    }


def journal_of(volume: Path) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl`` without what a clock or the machine says.

    A run that is stopped takes more checkpoints than one that is not: their lines are left out.
    """
    return [
        {key: value for key, value in line.items() if key not in MACHINE_KEYS}
        for line in _lines(volume / "toy" / "metrics.jsonl")
        if line["kind"] not in CHECKPOINT_KINDS
    ]


def samples_of(volume: Path) -> list[dict[str, Any]]:
    """Lines of ``samples.jsonl``."""
    return list(_lines(volume / "toy" / "samples.jsonl"))


def assert_equal_runs(volume: Path, reference: Path) -> None:
    """Weights, moments, losses and samples of both volumes are the same bits."""
    ours, theirs = tensors_of(volume), tensors_of(reference)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    assert journal_of(volume) == journal_of(reference)
    assert samples_of(volume) == samples_of(reference)


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

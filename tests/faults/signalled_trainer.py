"""Trainers that are signalled, for ``test_training_faults``: the command line in a process."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  optimizers import it: once here, not in every child
from forked_processes import nurse

import trainer.run.assemble  # noqa: F401  the command line imports it late
from trainer.__main__ import main
from trainer.run.loop import Loop
from trainer.run.optimizer_steps import Steps

LOG = "stderr.txt"


def train(volume: Path, *, recipe: str, options: tuple[str, ...] = ()) -> None:
    """``python -m trainer`` into a volume; what it says goes into a file beside the recipe."""
    log = os.open(Path(recipe).with_name(LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stderr.fileno())
    arguments = ["--recipe", recipe, "--volume", str(volume), "--threads", "1", *options]
    os._exit(main(arguments))


def train_until_in(
    volume: Path, *, recipe: str, method: str, call: int, number: int, hang_s: float
) -> None:
    """The same, but it signals itself as it enters a method of the loop for the n-th time.

    And then it hangs there for a while, as in a computation that takes long.
    """
    owner: Any = Steps if hasattr(Steps, method) else Loop
    original, calls = getattr(owner, method), 0

    def signalled(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(number)
            time.sleep(hang_s)
        return original(*arguments, **keywords)

    setattr(owner, method, signalled)
    train(volume, recipe=recipe)


if __name__ == "__main__":
    nurse({function.__name__: function for function in (train, train_until_in)})

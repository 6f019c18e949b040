"""The sides of a comparison as processes that take turns."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from trainer.recipe.schema import Recipe


@dataclasses.dataclass(frozen=True)
class Process:
    """One side, waiting for its next round."""

    name: str
    rounds: list[int]
    child: subprocess.Popen[str]

    def round(self) -> list[dict[str, Any]]:
        """Let it train one round; returns seconds and loss of each step."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        lines = [self.child.stdout.readline() for _ in range(self.rounds.pop(0))]
        if not all(lines):
            raise SystemExit(f"{self.name} ended before its time")
        return [json.loads(line) for line in lines]


@contextmanager
def start(
    side: str, recipe: Recipe, volume: Path, rounds: Sequence[int], device: str = "cpu"
) -> Iterator[Process]:
    """A side over a volume that ``workload.begin`` has filled; it is ended with the context."""
    path = volume / f"{side}.yaml"
    path.write_text(yaml.safe_dump(recipe.to_dict()), "utf-8")
    command = [sys.executable, "-m", "bench.training.side", side, str(path), str(volume)]
    command += ["--device", device]
    child = subprocess.Popen(
        [*command, *map(str, rounds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Process(side, list(rounds), child)
    finally:
        child.kill()
        child.communicate()

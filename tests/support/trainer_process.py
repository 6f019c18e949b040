"""Trains a recipe in real processes that can be signalled; see ``faults/signalled_trainer``."""

from pathlib import Path

import yaml
from forked_processes import Nursery

from lm.volume import list_steps, newest_step, verify
from trainer.recipe.schema import Recipe

SCRIPT = Path(__file__).parents[1] / "faults" / "signalled_trainer.py"


class TrainerProcess:
    """Trains a recipe into a volume, in one process after the other."""

    def __init__(self, nursery: Nursery, directory: Path, recipe: Recipe) -> None:
        self._nursery = nursery
        self.volume = directory / "volume"
        self._recipe = directory / "recipe.yaml"
        self._recipe.write_text(yaml.safe_dump(recipe.to_dict()))

    @property
    def run_dir(self) -> Path:
        """Directory of the run."""
        return self.volume / "toy"

    def start(self, *options: str) -> int:
        """Begin in the background; its process number."""
        return self._nursery.start("train", self.volume, recipe=str(self._recipe), options=options)

    def wait(self) -> int:
        """Exit status."""
        return self._nursery.wait()

    def run(self, *options: str) -> int:
        """Train until the process ends; its exit status."""
        self.start(*options)
        return self.wait()

    def run_until_in(self, method: str, *, call: int, number: int, hang_s: float = 0.0) -> int:
        """Train, with a signal in the loop's method and a pause there; the exit status."""
        self._nursery.start(
            "train_until_in",
            self.volume,
            recipe=str(self._recipe),
            method=method,
            call=call,
            number=number,
            hang_s=hang_s,
        )
        return self.wait()

    @property
    def log(self) -> str:
        """What it said on standard error."""
        path = self._recipe.with_name("stderr.txt")
        return path.read_text() if path.exists() else ""

    @property
    def newest(self) -> int:
        """Newest complete step; 0 before the first."""
        step = newest_step(self.run_dir)
        return step.number if step else 0

    @property
    def steps(self) -> list[int]:
        """All complete steps, verified; not for while some of them may be pruned."""
        steps = list_steps(self.run_dir)
        for step in steps:
            verify(step)
        return [step.number for step in steps]

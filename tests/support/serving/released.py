"""SmolLM2-135M-Instruct as others released it, for clients that need a model that can speak."""

import dataclasses
from pathlib import Path
from typing import Self

from machine_tools import give_up

from trainer.__main__ import main as trainer

WEIGHTS = Path(__file__).parents[3] / "weights" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclasses.dataclass(frozen=True)
class Released:
    """The same float32 weights in both forms."""

    volume: Path
    """Holds them as ``name``."""
    directory: Path
    """As Hugging Face's libraries read them."""
    name: str = "smollm2@0"

    @classmethod
    def bring(cls, here: Path) -> Self:
        """Write both forms; skips without ``make weights``."""
        if not WEIGHTS.is_file():
            give_up(f"no {WEIGHTS.name}: run make weights")
        volume, directory = here / "volume", here / "hf"
        at = ["--volume", str(volume)]
        assert trainer(["import", str(WEIGHTS), *at, "--run", "smollm2"]) == 0
        to = ["--output", str(directory), "--measure-tokens", "0"]
        assert trainer(["export", "smollm2", *at, *to]) == 0
        return cls(volume, directory)

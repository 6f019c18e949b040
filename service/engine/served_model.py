"""A model that can be served: its name, its tokenizer, its engine. One a checkpoint."""

import dataclasses

from lm.text.tokenizer import Tokenizer
from service.engine.engine import Engine

FUSED = "fused"
"""Name of the backend that is a GPU's fused kernels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Which weights these are, for people and for provenance."""

    run: str
    step: int
    fingerprint: str
    """SHA-256 that names every served byte."""
    created_at: float
    """Seconds since the epoch."""

    @property
    def name(self) -> str:
        """How clients name it: ``run@500``."""
        return f"{self.run}@{self.step}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What is to be known of a model that serves, wherever its engine is."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    max_model_tokens: int
    """Prompt and output together."""
    dtype: str
    """Of the weights in memory."""
    backend: str = "torch"
    """What computes: ``native avx512``, ``native avx2``, ``fused`` or ``torch``."""
    not_fused: str | None = None
    """On a GPU, why its fused kernels do not compute; ``None`` where they do, or without one."""
    num_slots: int = 0
    """Sequences that its cache holds at once, by the memory there was; 0 is not known."""
    device: str
    load_s: float
    """From opening the step until the model was warm."""
    bits_per_byte: float | None = None
    """On the service's probe text, where it was measured."""
    is_degenerate: bool = False
    """Whether its greedy probe text is empty or a loop, where that was looked at."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedModel(ModelCard):
    """One checkpoint, loaded and warmed."""

    engine: Engine

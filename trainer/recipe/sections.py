"""The sections of a recipe: strict, frozen values, each checked by itself."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lm.model.config import refuse_unknown_keys
from trainer.recipe.mixture import exact_shares

Momentum = Annotated[float, Field(ge=0.0, lt=1.0)]

HERE = "here"
"""Stands for the section in its own messages; the key path is put in front of them later."""
_DEFAULT_FRACTION = 0.1
_DEFAULT_VOCAB_SIZE = 1024


class Section(BaseModel):
    """A frozen part of a recipe; unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            refuse_unknown_keys(map(str, values), cls.model_fields, HERE)
        return values


class SourceConfig(Section):
    """One text source and how it is split into training and validation text."""

    name: str
    """What stages, metrics and messages call it."""
    corpus: str
    """``shakespeare``, ``code``, ``math``, or ``file:PATH``."""
    validation_plays: tuple[str, ...] = ()
    """Shakespeare only: the plays held out whole, by file name without ``.md``."""
    validation_fraction: float = Field(default=_DEFAULT_FRACTION, gt=0.0, lt=1.0)
    """Other sources: the share of the text's tail that is held out."""
    keep_line_ends: bool = False
    """Files only: whether ``\\r\\n`` and ``\\r`` stay what they are instead of becoming ``\\n``."""
    max_bytes: int | None = Field(default=None, gt=0)
    """Read at most this much of the source; ``None`` is all of it."""

    @model_validator(mode="after")
    def _split_suits_the_corpus(self) -> Self:
        is_plays = self.corpus == "shakespeare"
        if is_plays and not self.validation_plays:
            raise ValueError("corpus 'shakespeare' needs validation_plays to hold out")
        if is_plays and self.validation_fraction != _DEFAULT_FRACTION:
            raise ValueError("validation_fraction: shakespeare holds out validation_plays instead")
        if self.validation_plays and not is_plays:
            raise ValueError(f"validation_plays: corpus {self.corpus!r} has no plays")
        if not is_plays and self.corpus not in {"code", "math"} and self.corpus[:5] != "file:":
            raise ValueError(
                f"corpus {self.corpus!r} is none of shakespeare, code, math and file:PATH"
            )
        return self


class StageConfig(Section):
    """A stretch of training with its own mixture of sources."""

    name: str
    first_step: int = Field(ge=0)
    """First step, in the recipe's unit, of this stage."""
    weights: dict[str, float]
    """Share of sequences by source name; they sum to 1."""

    @model_validator(mode="after")
    def _weights_are_a_mixture(self) -> Self:
        exact_shares(self.weights)
        return self


class TokenizerConfig(Section):
    """Where token ids come from."""

    source: str = "train"
    """``train`` (byte-level BPE on the training split), ``weights`` (of the imported step),
    ``hub:OWNER/NAME``, or a path to a directory or a ``tokenizer.json``."""
    vocab_size: int = Field(default=_DEFAULT_VOCAB_SIZE, ge=257)
    """Vocabulary to train, special tokens included; ignored by nothing: refused unless training."""
    offline_fallback: bool = False
    """Whether a Hub tokenizer that cannot be had may be replaced by a trained one."""

    @property
    def may_train(self) -> bool:
        """Whether a tokenizer of ``vocab_size`` may come of this section."""
        return self.source == "train" or self.offline_fallback

    @model_validator(mode="after")
    def _size_is_for_training(self) -> Self:
        if self.offline_fallback and not self.source.startswith("hub:"):
            raise ValueError(f"offline_fallback: source {self.source!r} is not of the Hub")
        if self.vocab_size != _DEFAULT_VOCAB_SIZE and not self.may_train:
            raise ValueError(f"vocab_size: source {self.source!r} has a vocabulary of its own")
        return self


class OptimizerConfig(Section):
    """How gradients become updates."""

    name: Literal["adamw", "muon"] = "adamw"
    """``muon``: ``torch.optim.Muon`` on the hidden matrices, AdamW on everything else."""
    lr: float = Field(gt=0.0)
    """Peak learning rate of AdamW's parameters."""
    betas: tuple[Momentum, Momentum] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    """On matrices alone; norms, biases and embeddings are not decayed unless ``decay_all``."""
    decay_all: bool = False
    muon_lr: float = Field(default=0.02, gt=0.0)
    """Peak learning rate of the matrices under Muon."""
    muon_momentum: Momentum = 0.95
    grad_clip: float | None = Field(default=1.0, gt=0.0)
    """Largest global gradient norm; ``None`` does not clip."""


class ScheduleConfig(Section):
    """Learning-rate factor over a phase; the horizon is kept in the checkpoint."""

    name: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    """``linear`` and ``cosine`` fall from the end of the warm-up to ``floor`` at the horizon;
    ``wsd`` stays at 1 until ``decay_start`` and then falls linearly."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps of linear warm-up."""
    floor: float = Field(default=0.0, ge=0.0, le=1.0)
    """Factor reached at the horizon."""
    decay_start: int | None = Field(default=None, ge=0)
    """``wsd`` only: the optimizer step at which decay starts."""
    horizon: int | None = Field(default=None, gt=0)
    """Optimizer steps over which the schedule is laid out; ``None``: it ends with the phase."""
    first_step: int = Field(default=0, ge=0)
    """Optimizer steps of the schedule that earlier phases have taken: where this one begins."""

    @model_validator(mode="after")
    def _has_what_it_names(self) -> Self:
        if self.floor and self.name == "constant":
            raise ValueError("floor: schedule 'constant' does not fall")
        if self.decay_start is not None and self.name != "wsd":
            raise ValueError(f"decay_start: schedule {self.name!r} has none, only wsd")
        return self


class PhaseConfig(Section):
    """Steps taken under one learning rate and schedule; later phases keep optimizer moments."""

    name: str
    steps: int = Field(gt=0)
    """Length in the recipe's unit."""
    lr: float | None = Field(default=None, gt=0.0)
    """Replaces the optimizer's peak learning rate in this phase."""
    weight_decay: float | None = Field(default=None, ge=0.0)
    """Replaces the optimizer's weight decay in this phase."""
    schedule: ScheduleConfig = ScheduleConfig()


class BatchConfig(Section):
    """What one optimizer step sees."""

    micro_batch: int = Field(gt=0)
    """Sequences in one forward and backward pass."""
    length: int = Field(gt=0)
    """Tokens in one sequence."""
    grad_accum_steps: int = Field(default=1, gt=0)
    """Micro-batches accumulated into one optimizer step."""


class CadenceConfig(Section):
    """How often what happens, in the recipe's unit of steps."""

    checkpoint_every: int = Field(gt=0)
    checkpoint_seconds: float | None = Field(default=None, gt=0)
    """Also publish when this much time passed since the last checkpoint (never changes weights)."""
    eval_every: int = Field(gt=0)
    eval_tokens: int = Field(default=65_536, gt=0)
    """Validation tokens scored at each evaluation, the same every time; at the end all of them are
    scored, too."""
    sample_every: int = Field(gt=0)
    sample_tokens: int = Field(default=64, gt=0)
    log_every: int = Field(default=10, gt=0)
    """Steps between two lines of ``metrics.jsonl``."""


class RetentionConfig(Section):
    """Which published steps stay and how: whole, or as milestones."""

    keep_last: int = Field(default=3, ge=2)
    keep_best: bool = True
    keep_every: int | None = Field(default=None, gt=0)
    """Multiples of this step stay as weights-only milestones."""
    keep_steps: tuple[int, ...] = ()
    """These steps stay as weights-only milestones."""

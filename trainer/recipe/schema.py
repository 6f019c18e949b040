"""A recipe: everything that decides a run's weights, as strict YAML into frozen values.

Two runs with equal recipes, seeds, threads and library versions give equal bits. What may differ
between two invocations of one run (volume, device, log level) is a command-line option instead.
Not here: how a recipe is found, overridden or scaled down (``trainer.recipe.recipes``).
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from lm.model.config import ModelConfig, refuse_unknown_keys
from trainer.recipe import yaml as strict_yaml
from trainer.recipe.mixture import exact_shares

Momentum = Annotated[float, Field(ge=0.0, lt=1.0)]

_HERE = "here"
"""Stands for the section in its own messages; the key path is put in front of them later."""
_DEFAULT_FRACTION = 0.1
_DEFAULT_VOCAB_SIZE = 1024
FREE_FIELDS = frozenset({"description", "source", "cadence", "retention", "sample_prompts"})
"""Parts of a recipe that may change in mid-run: they decide what is seen, not what is learnt."""


def _known_model_keys(values: Any) -> Any:
    """Refuse keys that pydantic would drop: ``ModelConfig`` is a dataclass, not a section."""
    if isinstance(values, Mapping):
        refuse_unknown_keys(map(str, values), ModelConfig.__dataclass_fields__, _HERE)
    return values


class Section(BaseModel):
    """A frozen part of a recipe; unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            refuse_unknown_keys(map(str, values), cls.model_fields, _HERE)
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


class Recipe(Section):
    """One run, whole."""

    name: str
    description: str
    source: str = ""
    """Where the figures come from."""
    model: Annotated[ModelConfig, BeforeValidator(_known_model_keys)]
    tokenizer: TokenizerConfig = TokenizerConfig()
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    stages: tuple[StageConfig, ...] = ()
    """Empty: one stage, all sources by equal weight."""
    batch: BatchConfig
    unit: Literal["optimizer", "micro"] = "optimizer"
    """What a step counts: optimizer steps or micro-batches."""
    optimizer: OptimizerConfig
    phases: tuple[PhaseConfig, ...] = Field(min_length=1)
    extension: tuple[PhaseConfig, ...] = ()
    """Phases past the recipe's own end, which ``--extend-steps`` adds."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Autocast dtype over float32 masters; ``auto`` measures whether bfloat16 is faster."""
    half_residual: bool = False
    """Whether blocks add to a stream in the autocast dtype instead of float32: faster on a GPU, and
    each sum is rounded."""
    float32_matmul: Literal["highest", "high"] = "highest"
    """``high`` lets float32 products run in TF32 where the hardware has it."""
    deterministic: bool = True
    """Whether a GPU may only run kernels whose sums have one order. Without it attention's backward
    pass may be faster, and a resumed run's bits may differ from an uninterrupted one's."""
    activation_checkpointing: bool = False
    compile: bool | Literal["auto"] = "auto"
    """``auto``: on a GPU, where that pays within seconds; not on a CPU."""
    cadence: CadenceConfig
    retention: RetentionConfig = RetentionConfig()
    sample_prompts: tuple[Annotated[str, Field(min_length=1)], ...] = ("First Citizen:",)
    seed: int = Field(default=1337, ge=0, lt=2**31)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain data; raises ``ValueError`` with the first fault in one line."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(_one_line(error)) from error

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """Build from YAML; raises ``ValueError`` with the first fault in one line."""
        return cls.from_dict(strict_yaml.parse(text))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON and YAML, defaults included; the inverse of ``from_dict``."""
        return self.model_dump(mode="json")

    def binding(self) -> dict[str, Any]:
        """Plain data of everything that can change weights, and so must stay in mid-run."""
        return self.model_dump(mode="json", exclude=set(FREE_FIELDS))

    @property
    def recipe_hash(self) -> str:
        """SHA-256, in hexadecimal, of everything in the recipe that can change weights."""
        return hashlib.sha256(json.dumps(self.binding(), sort_keys=True).encode()).hexdigest()

    @property
    def all_phases(self) -> tuple[PhaseConfig, ...]:
        """The recipe's own phases and those that made it longer."""
        return self.phases + self.extension

    @model_validator(mode="after")
    def _parts_fit_each_other(self) -> Self:
        if self.batch.length > self.model.max_position_embeddings:
            raise ValueError(
                f"batch.length {self.batch.length} exceeds model.max_position_embeddings "
                f"{self.model.max_position_embeddings}"
            )
        if self.tokenizer.may_train and self.tokenizer.vocab_size > self.model.vocab_size:
            raise ValueError(
                f"tokenizer.vocab_size {self.tokenizer.vocab_size} exceeds model.vocab_size "
                f"{self.model.vocab_size}"
            )
        return self

    @model_validator(mode="after")
    def _stages_follow_each_other(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"sources: names must differ, they are {', '.join(names)}")
        for index, stage in enumerate(self.stages):
            refuse_unknown_keys(stage.weights, names, f"stages.{index}.weights")
        first_steps = [stage.first_step for stage in self.stages]
        if first_steps and first_steps[0] != 0:
            raise ValueError(f"stages.0.first_step must be 0, it is {first_steps[0]}")
        if any(a >= b for a, b in itertools.pairwise(first_steps)):
            raise ValueError(f"stages: first_step must ascend, they are {first_steps}")
        return self


def _one_line(error: ValidationError) -> str:
    """The first fault: key path, what is wrong, what came instead."""
    fault = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ").removeprefix(f"{_HERE}: ")
    if fault["type"] == "missing":
        message = "missing"
    elif fault["type"] != "value_error":
        message = f"{message[0].lower()}{message[1:]}, got {fault['input']!r}"
    if not path or message.startswith(f"{path}."):  # ModelConfig's messages name their key
        return message
    return f"{path}: {message}"

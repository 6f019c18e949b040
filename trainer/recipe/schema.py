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
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)

from lm.model.config import ModelConfig, refuse_unknown_keys
from trainer.recipe import yaml as strict_yaml
from trainer.recipe.sections import (
    HERE,
    BatchConfig,
    CadenceConfig,
    OptimizerConfig,
    PhaseConfig,
    RetentionConfig,
    Section,
    SourceConfig,
    StageConfig,
    TokenizerConfig,
)

FREE_FIELDS = frozenset({"description", "source", "cadence", "retention", "sample_prompts"})
"""Parts of a recipe that may change in mid-run: they decide what is seen, not what is learnt."""


def _known_model_keys(values: Any) -> Any:
    """Refuse keys that pydantic would drop: ``ModelConfig`` is a dataclass, not a section."""
    if isinstance(values, Mapping):
        refuse_unknown_keys(map(str, values), ModelConfig.__dataclass_fields__, HERE)
    return values


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
    message = fault["msg"].removeprefix("Value error, ").removeprefix(f"{HERE}: ")
    if fault["type"] == "missing":
        message = "missing"
    elif fault["type"] != "value_error":
        message = f"{message[0].lower()}{message[1:]}, got {fault['input']!r}"
    if not path or message.startswith(f"{path}."):  # ModelConfig's messages name their key
        return message
    return f"{path}: {message}"

"""What a generating route asks for, whatever its body looks like: the one thing admitted."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lm.sampling import SamplingParams


@dataclasses.dataclass(frozen=True)
class Chat:
    """Messages to answer."""

    messages: tuple[Mapping[str, Any], ...]
    """As chat templates know them: ``role``, ``content`` and what else a message may have."""


Prompt = str | tuple[int, ...] | Chat


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """Some prompts, each to be continued ``n`` times; fields not said here are the engine's."""

    model: str | None
    prompts: tuple[Prompt, ...]
    n: int
    max_new_tokens: int | None
    """``None`` is what fits the model beside the prompt."""
    sampling: SamplingParams
    """All but the seed."""
    unsaid: frozenset[str] = frozenset()
    """Fields of ``sampling`` that the model's own defaults may fill."""
    seed: int | None
    """Of each prompt's first answer, the next ones count up; drawn where it is ``None``."""
    min_new_tokens: int
    ignore_eos: bool
    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    include_stop: bool
    grammar: str | None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    output_field: str = "max_tokens"
    """What the body calls ``max_new_tokens``, for messages."""

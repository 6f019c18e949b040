"""How a model's makers sample from it: what ``generation_config.json`` says, checked."""

from collections.abc import Mapping
from typing import Any

from lm.sampling import RANGES

_NAMES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_MIN_TOP_P = 1e-9


def sampling_defaults(generation: Mapping[str, Any]) -> dict[str, float]:
    """Values by the names of ``SamplingParams``; what is null or not there is left out.

    ``do_sample`` does not count: a request that names no temperature is sampled at this one.
    Raises ``ValueError`` naming a value that no request could ask for.
    """
    defaults: dict[str, float] = {}
    for name in _NAMES:
        value = generation.get(name)
        if value is None:
            continue
        if name == "top_k" and value == -1:  # as it is spelled elsewhere
            value = 0
        if name == "top_p" and value == 0:  # the likeliest token alone, as in a request
            value = _MIN_TOP_P
        low, high = RANGES.get(name, (_MIN_TOP_P, 1.0))
        if type(value) not in ((int,) if name == "top_k" else (int, float)):
            raise ValueError(f"generation_config.json: {name} must be a number, got {value!r}")
        if not low <= value <= high:
            raise ValueError(
                f"generation_config.json: {name} must be between {low:g} and {high:g}, "
                f"got {value!r}"
            )
        defaults[name] = value
    return defaults

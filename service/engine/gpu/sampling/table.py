"""How each slot's sequence is drawn from, as arrays that a step's rows are gathered from."""

import math

import numpy as np
import numpy.typing as npt

from lm.sampling import SamplingParams
from service.engine.gpu.inputs import Array, Field
from service.engine.gpu.sampling.adjustments import Adjust
from service.engine.gpu.sampling.uniforms import counter_uniforms
from service.engine.gpu.sampling.variant import Variant

FIELDS = {
    "uniforms": "f8",
    "top_p": "f8",
    "slots": "i4",
    "temperatures": "f4",
    "top_k": "i4",
    "log_min_p": "f4",
    "adjust": "i4",
}
"""Those of ``SamplingRows``."""
MAX_TOP_K = 2**31 - 1
DRAWS, FILTERS = 1, 2
_NAMES = {0: "greedy", DRAWS: "temperature", DRAWS | FILTERS: "filtered"}


def sampling_fields(rows: int) -> dict[str, Field]:
    """What a step's inputs need for drawing from so many rows."""
    return {name: Field(dtype, (rows,)) for name, dtype in FIELDS.items()}


class SamplingTable:
    """Parameters by slot."""

    def __init__(self, num_slots: int) -> None:
        self._values = {
            name: np.zeros(num_slots, FIELDS[name])
            for name in ("temperatures", "top_k", "top_p", "log_min_p")
        }
        self._values["top_p"].fill(1.0)
        self._seeds = np.zeros(num_slots, np.uint64)
        self._min_new = np.zeros(num_slots, np.int64)
        self._adjusts = np.zeros(num_slots, np.bool_)
        self._draws = np.zeros(num_slots, np.int64)

    def begin(self, slot: int, params: SamplingParams, *, min_new_tokens: int = 0) -> None:
        """A sequence has taken a slot; its end tokens are banned for so many tokens."""
        self._values["temperatures"][slot] = params.temperature
        self._values["top_k"][slot] = min(params.top_k, MAX_TOP_K)
        self._values["top_p"][slot] = params.top_p
        self._values["log_min_p"][slot] = math.log(params.min_p) if params.min_p else -math.inf
        self._seeds[slot] = params.seed
        self._min_new[slot] = min_new_tokens
        self._adjusts[slot] = params.adjusts_logits
        self._draws[slot] = _draws(params)

    def fill(
        self,
        arrays: dict[str, Array],
        slots: npt.NDArray[np.int64],
        indices: npt.NDArray[np.int64],
    ) -> Variant:
        """Write the first rows of a step's inputs, the others dead; what drawing from them takes.

        ``indices`` are the tokens' in their outputs. Below 0 the next token is known: the row is
        dead, so that no draw takes the place of the one that follows the prompt.
        """
        count = len(slots)
        is_drawn = indices >= 0
        for name, values in self._values.items():
            arrays[name][:count] = values[slots]
        arrays["uniforms"][:count] = counter_uniforms(self._seeds[slots], indices)
        arrays["slots"][:count] = np.where(is_drawn, slots, -1)
        arrays["slots"][count:] = -1
        is_banning = is_drawn & (indices < self._min_new[slots])
        adjusts = is_drawn & (self._adjusts[slots] | is_banning)
        arrays["adjust"][:count] = adjusts * Adjust.SLOT.value + is_banning * Adjust.BANS.value
        name = _NAMES[int(np.bitwise_or.reduce(self._draws[slots]))]
        return Variant(f"adjusted {name}" if adjusts.any() else name)


def _draws(sampling: SamplingParams) -> int:
    """What it takes to draw, as bits."""
    if sampling.is_greedy:
        return 0
    filters = sampling.top_k or sampling.top_p < 1.0 or sampling.min_p
    return DRAWS | FILTERS if filters else DRAWS

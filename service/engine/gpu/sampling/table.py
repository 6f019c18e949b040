"""What the sequences in the slots ask of the sampler, kept on the host to fill a step's rows."""

import math

import numpy as np
import numpy.typing as npt

from lm.sampling import SamplingParams
from service.engine.gpu.sampling.adjustments import Adjust
from service.engine.gpu.sampling.rows import SamplingRows
from service.engine.gpu.sampling.uniforms import counter_uniforms
from service.engine.gpu.sampling.variant import Variant

MAX_TOP_K = 2**31 - 1


class SlotTable:
    """Parameters of S slots as arrays: a step's rows are gathered, not built one by one."""

    def __init__(self, num_slots: int) -> None:
        """All slots are greedy."""
        self._seeds = np.zeros(num_slots, np.uint64)
        self._top_p = np.ones(num_slots)
        self._temperatures = np.zeros(num_slots, np.float32)
        self._top_k = np.zeros(num_slots, np.int32)
        self._log_min_p = np.full(num_slots, -math.inf, np.float32)
        self._adjusts = np.zeros(num_slots, bool)
        self._filters = np.zeros(num_slots, bool)

    def begin(self, slot: int, params: SamplingParams, *, adjusts: bool = False) -> None:
        """A sequence takes a slot; ``adjusts`` where ``Adjustments.begin`` is called for it, too.

        That is where ``params.adjusts_logits``, or where tokens are banned at first.
        """
        self._seeds[slot] = params.seed
        self._top_p[slot] = params.top_p
        self._temperatures[slot] = 0.0 if params.is_greedy else params.temperature
        self._top_k[slot] = min(params.top_k, MAX_TOP_K)
        self._log_min_p[slot] = math.log(params.min_p) if params.min_p else -math.inf
        self._adjusts[slot] = adjusts
        filters = params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0
        self._filters[slot] = filters and not params.is_greedy

    def fill(
        self,
        rows: SamplingRows,
        slots: npt.NDArray[np.int32],
        indices: npt.NDArray[np.int64],
        bans: npt.NDArray[np.bool_],
    ) -> Variant:
        """Write the rows of a step, on the host, and say which variant they need at least.

        ``slots`` [N] are -1 for rows that draw nothing, ``indices`` [N] the tokens' in their
        outputs, ``bans`` [N] whether the slot's banned tokens may not be drawn yet. Rows from N on
        are dead.
        """
        num_rows = len(slots)
        adjust = self._adjusts[slots] * (int(Adjust.SLOT) + int(Adjust.BANS) * bans)
        for tensor, values in (
            (rows.uniforms, counter_uniforms(self._seeds[slots], indices)),
            (rows.top_p, self._top_p[slots]),
            (rows.slots, slots),
            (rows.temperatures, self._temperatures[slots]),
            (rows.top_k, self._top_k[slots]),
            (rows.log_min_p, self._log_min_p[slots]),
            (rows.adjust, adjust),
        ):
            tensor.numpy()[:num_rows] = values
        rows.slots.numpy()[num_rows:] = -1
        live = slots[slots >= 0]
        return Variant.of(
            draws=bool(self._temperatures[live].any()),
            filters=bool(self._filters[live].any()),
            adjusts=bool(self._adjusts[live].any()),
        )

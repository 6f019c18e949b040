"""The uniform numbers of a step's draws, all at once on the host."""

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from lm.sampling import counter_uniform


def counter_uniforms(
    seeds: npt.NDArray[np.uint64], indices: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """``counter_uniform`` of each seed [R] and index [R], bit for bit: float64 [R] in [0, 1).

    Integers of 64 bits wrap in NumPy's arrays as the definition's masks make Python's wrap.
    """
    if seeds.shape != indices.shape or seeds.ndim != 1:
        raise ValueError(f"need one seed an index, got {seeds.shape} and {indices.shape}")
    words = cast("Any", (seeds.astype(np.uint64), indices.astype(np.uint64)))
    return cast("npt.NDArray[np.float64]", counter_uniform(*words))

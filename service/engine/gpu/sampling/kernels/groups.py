"""First kernel: the largest value and the sum of weights of each group of tokens."""

import triton
import triton.language as tl

from service.engine.gpu.sampling.kernels.values import adjusted_row, row_values


@triton.jit
def group_tokens(
    logits,  # float32 [R, V]
    slots,  # int32 [R]
    temperatures,  # float32 [R]
    adjust,  # int32 [R]
    words,  # int32 [S, V]
    bias,  # float32 [S, V]
    penalties,  # float32 [S, 4]
    peaks,  # out: float32 [R, G]
    sums,  # out: float32 [R, G], relative to the peak of the group
    V,
    G,
    GREEDY_BELOW: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    SUMS: tl.constexpr,
    ADJUSTED: tl.constexpr,
):
    """One program reads ``GROUPS`` groups of ``GROUP`` neighbouring tokens of one row."""
    row = tl.program_id(1)
    slot = tl.load(slots + row)
    if slot >= 0:
        group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
        token_ids = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        flags = tl.load(adjust + row)
        temperature = tl.load(temperatures + row)
        source = adjusted_row(
            logits, row, slot, flags, temperature, words, bias, penalties, V, GREEDY_BELOW
        )
        values = row_values(source, token_ids, token_ids < V, ADJUSTED)
        peak = tl.max(values, 1)
        at = row.to(tl.int64) * G + group
        tl.store(peaks + at, peak, mask=group < G)
        if SUMS:
            shift = tl.where(peak == -float("inf"), 0.0, peak)
            tl.store(sums + at, tl.sum(tl.exp(values - shift[:, None]), 1), mask=group < G)

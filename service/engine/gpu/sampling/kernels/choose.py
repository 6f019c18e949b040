"""Second kernel: one program a row takes its token, from the groups that the first one left."""

import triton
import triton.language as tl

from service.engine.gpu.sampling.kernels.draw import drawn_token, likeliest_token
from service.engine.gpu.sampling.kernels.filter import filtered_token
from service.engine.gpu.sampling.kernels.values import adjusted_row


@triton.jit
def kept_token(
    row, peak, summed, top, uniform, k, p, log_min_p, group_list, value_list, id_list, V, CAPACITY,
    GROUP: tl.constexpr, TILE: tl.constexpr, FEW: tl.constexpr, NEGLIGIBLE: tl.constexpr,
    STEPS: tl.constexpr, ADJUSTED: tl.constexpr,
):  # fmt: skip
    """A token of what the row's filters leave, or of all where it has none."""
    k = tl.where((k > 0) & (k < V), k, V)
    if (k < V) | (p < 1.0) | (log_min_p > -float("inf")):
        token = filtered_token(
            row, peak, summed, top, uniform, k, p, log_min_p, group_list, value_list, id_list,
            V, CAPACITY, GROUP, TILE, FEW, NEGLIGIBLE, STEPS, ADJUSTED,
        )  # fmt: skip
    else:
        token = drawn_token(row, peak, summed, top, uniform, V, GROUP, ADJUSTED)
    return token


@triton.jit
def choose_tokens(
    logits,  # float32 [R, V]
    slots,  # int32 [R]
    temperatures,  # float32 [R]
    uniforms, top_k, top_p, log_min_p, adjust,  # [R], as SamplingRows has them
    words, bias, penalties,  # as Adjustments has them
    peaks, sums,  # float32 [R, G]
    group_lists,  # workspace: int32 [R, G]
    value_lists,  # workspace: float32 [R, CAPACITY]
    id_lists,  # workspace: int32 [R, CAPACITY]
    tokens,  # out: int32 [R]
    last_tokens,  # out: int32 [S]
    V, G, CAPACITY,
    GREEDY_BELOW: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr, TILE: tl.constexpr,
    FEW: tl.constexpr, NEGLIGIBLE: tl.constexpr, STEPS: tl.constexpr,
    DRAWS: tl.constexpr, FILTERS: tl.constexpr, ADJUSTED: tl.constexpr,
):  # fmt: skip
    """``GROUPS`` is G rounded up to a power of two."""
    row = tl.program_id(0)
    slot = tl.load(slots + row)
    if slot >= 0:
        flags = tl.load(adjust + row)
        temperature = tl.load(temperatures + row)
        source = adjusted_row(
            logits, row, slot, flags, temperature, words, bias, penalties, V, GREEDY_BELOW
        )
        group = tl.arange(0, GROUPS)
        at = row.to(tl.int64) * G + group
        peak = tl.load(peaks + at, mask=group < G, other=-float("inf"))
        top = tl.max(peak)
        # Without any number but -inf there is nothing to draw from: the first token.
        takes_likeliest = (temperature < GREEDY_BELOW) | (top == -float("inf"))
        if DRAWS:
            if takes_likeliest:
                token = likeliest_token(source, peak, top, V, GROUP, ADJUSTED)
            else:
                summed = tl.load(sums + at, mask=group < G, other=0.0)
                uniform = tl.load(uniforms + row)
                if FILTERS:
                    token = kept_token(
                        source, peak, summed, top, uniform,
                        tl.load(top_k + row), tl.load(top_p + row), tl.load(log_min_p + row),
                        group_lists + row.to(tl.int64) * G,
                        value_lists + row.to(tl.int64) * CAPACITY,
                        id_lists + row.to(tl.int64) * CAPACITY,
                        V, CAPACITY, GROUP, TILE, FEW, NEGLIGIBLE, STEPS, ADJUSTED,
                    )  # fmt: skip
                else:
                    token = drawn_token(source, peak, summed, top, uniform, V, GROUP, ADJUSTED)
        else:
            token = likeliest_token(source, peak, top, V, GROUP, ADJUSTED)
        tl.store(tokens + row, token)
        tl.store(last_tokens + slot, token)
        if ADJUSTED:
            if flags != 0:  # one more in the output; no other row has this slot
                word = words + slot.to(tl.int64) * V + token
                tl.store(word, tl.load(word) + 4)

"""What a row's tokens are drawn from: logits adjusted, then divided by the temperature."""

import triton
import triton.language as tl


@triton.jit
def row_values(row, token_ids, mask, ADJUSTED: tl.constexpr):
    """Float32 values of some tokens of a row; -inf where masked, and for what is not a number.

    ``row`` is (logits [V], divisor, adjust flags, words [V], bias [V], penalties [4]), the last
    four as ``adjustments.Adjustments`` has them. The operations and their order are those of
    ``lm.sampling.adjusted_logits``, without fused multiply-adds, so that the bits are, too.
    """
    logits, divisor, flags, words, bias, penalties = row
    values = tl.load(logits + token_ids, mask=mask, other=-float("inf"))
    if ADJUSTED:
        adjusts = mask & (flags != 0)
        repetition = tl.load(penalties)
        frequency = tl.load(penalties + 1)
        presence = tl.load(penalties + 2)
        is_biased = tl.load(penalties + 3).to(tl.int32) != 0
        word = tl.load(words + token_ids, mask=adjusts, other=0)
        values += tl.load(bias + token_ids, mask=adjusts & is_biased, other=0.0)
        repeated = tl.where(values < 0, values * repetition, tl.div_rn(values, repetition))
        values = tl.where((word & ~2) != 0, repeated, values)
        count = word >> 2
        counted = frequency * count.to(tl.float32) + presence * (count > 0).to(tl.float32)
        values = tl.where(count > 0, values - counted, values)
        values = tl.where((word & flags & 2) != 0, -float("inf"), values)
    values = tl.where(values == values, values, -float("inf"))
    return tl.div_rn(values, divisor)


@triton.jit
def adjusted_row(logits, row, slot, flags, temperature, words, bias, penalties, V, GREEDY_BELOW):
    """The tuple that ``row_values`` reads."""
    is_greedy = temperature < GREEDY_BELOW
    divisor = tl.where(is_greedy, 1.0, temperature)
    start = row.to(tl.int64) * V
    own = slot.to(tl.int64) * V
    return (logits + start, divisor, flags, words + own, bias + own, penalties + slot * 4)

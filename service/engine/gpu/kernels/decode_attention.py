"""Attention of one token a row over its slot: rotation, cache write and keys in splits.

Block i of a sequence's keys belongs to split i mod S, so that a short sequence keeps few splits
busy and a long one all; a split without keys ends at once. Keys from a row's position on are never
read: the row's own key and value come from its projections.
Shapes: B rows, Hkv heads of G queries and D numbers, S splits, T tokens a slot.
"""

import dataclasses
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from lm.model.config import ModelConfig
from service.engine.gpu.kernels.choices import AttentionChoice
from service.engine.gpu.kernels.launch import Launch, allow_next, wait_for_inputs
from service.engine.gpu.tensors import StepRows

LOG2E = 1.0 / math.log(2.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """What each split saw of its keys, float32."""

    best: Tensor
    """[B, Hq, S]: the largest score, times log2 e."""
    total: Tensor
    """[B, Hq, S]: sum of the weights, the best one 1."""
    mixed: Tensor
    """[B, S, Hq D]: weighted sum of the values."""
    arrivals: Tensor
    """int32 [B, Hkv]: splits that are done; 0 between steps."""

    @classmethod
    def empty(cls, config: ModelConfig, rows: int, splits: int, device: torch.device) -> "Splits":
        """Splits of a step's rows."""
        heads, width = config.num_attention_heads, config.num_attention_heads * config.head_dim
        return cls(
            best=torch.zeros(rows, heads, splits, device=device),
            total=torch.zeros(rows, heads, splits, device=device),
            mixed=torch.zeros(rows, splits, width, device=device),
            arrivals=torch.zeros(
                rows, config.num_key_value_heads, dtype=torch.int32, device=device
            ),
        )


def attend(
    launch: Launch,
    choice: AttentionChoice,
    config: ModelConfig,
    rows: StepRows,
    rotation: tuple[Tensor, Tensor],
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    splits: Splits,
    *,
    merge: bool,
) -> None:
    """Write out [B, Hq D] and each row's key and value [S, Hkv, T, D].

    Without ``merge`` the splits stay as they are, for a product that merges them itself.
    """
    group = config.num_attention_heads // config.num_key_value_heads
    head_dim = config.head_dim
    padded_group = triton.next_power_of_2(group)
    _decode_attention[(qkv.shape[0], config.num_key_value_heads, choice.splits)](
        qkv, rows.positions, rows.slots, *rotation, keys, values, out,
        splits.best, splits.total, splits.mixed, splits.arrivals,
        keys.shape[2], LOG2E / math.sqrt(head_dim),
        SPLITS=choice.splits,
        G=group,
        GM=padded_group,
        GP=max(16, padded_group) if choice.tensor_cores else padded_group,
        HKV=config.num_key_value_heads,
        D=head_dim,
        DP=triton.next_power_of_2(head_dim),
        BT=choice.keys,
        DOT=choice.tensor_cores,
        MERGE=merge,
        **launch.options(choice.warps, choice.stages),
    )  # fmt: skip


@triton.jit
def _decode_attention(
    qkv, positions, slots, cos, sin, keys, values, out, best, total, mixed, arrivals, T, SCALE,
    SPLITS: tl.constexpr, G: tl.constexpr, GM: tl.constexpr, GP: tl.constexpr, HKV: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, BT: tl.constexpr,
    DOT: tl.constexpr, MERGE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    allow_next(PDL)
    b, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    d, g, t = tl.arange(0, DP), tl.arange(0, GP), split * BT + tl.arange(0, BT)
    in_head = d < D
    slot = tl.load(slots + b).to(tl.int64)
    position = tl.where(slot < 0, -1, tl.load(positions + b))
    base = (slot * HKV + head) * T * D
    k = _block(keys + base, t, d, position, D)
    v = _block(values + base, t, d, position, D)
    c, s = _rotation(cos, sin, position, d, D)
    wait_for_inputs(PDL)
    if split * BT > position:
        return

    own = qkv + b * (G + 2) * HKV * D
    query = head * G + g
    is_query = (g < G)[:, None] & in_head[None, :]
    q = _rotated(own + query[:, None] * D, d[None, :], is_query, c[None, :], s[None, :], D)
    if DOT:
        q = q.to(k.dtype)
    own_key = own + (G * HKV + head) * D
    new_k = _rotated(own_key, d, in_head, c, s, D).to(k.dtype)
    new_v = tl.load(own_key + HKV * D + d, mask=in_head, other=0.0).to(v.dtype)
    is_owner = (position // BT) % SPLITS == split
    tl.store(keys + base + position * D + d, new_k, mask=in_head & is_owner)
    tl.store(values + base + position * D + d, new_v, mask=in_head & is_owner)

    # The row's own key comes first, and only blocks of the cache in the loop: these go from memory
    # to the tensor cores without a thread looking at them.
    score = tl.sum(q.to(tl.float32) * new_k.to(tl.float32)[None, :], 1) * SCALE
    m = tl.where(is_owner, score, float("-inf"))
    weight = tl.where(is_owner & (g >= 0), 1.0, 0.0)
    acc = tl.where(is_owner & (g >= 0)[:, None], new_v.to(tl.float32)[None, :], 0.0)
    m, weight, acc = _see(m, weight, acc, q, k, v, t, position, SCALE, DOT)
    for start in range((split + SPLITS) * BT, position, SPLITS * BT):
        t = start + tl.arange(0, BT)
        k = _block(keys + base, t, d, position, D)
        v = _block(values + base, t, d, position, D)
        m, weight, acc = _see(m, weight, acc, q, k, v, t, position, SCALE, DOT)

    if MERGE and SPLITS == 1:
        result = out + b * G * HKV * D + query[:, None] * D + d[None, :]
        tl.store(result, (acc / weight[:, None]).to(out.dtype.element_ty), mask=is_query)
    else:
        place = (b * G * HKV + query) * SPLITS + split
        tl.store(best + place, m, mask=g < G)
        tl.store(total + place, weight, mask=g < G)
        place = (b * SPLITS + split) * G * HKV * D + query[:, None] * D + d[None, :]
        tl.store(mixed + place, acc, mask=is_query)
        if MERGE:
            live = tl.minimum(position // BT + 1, SPLITS)
            if _is_last(arrivals + b * HKV + head, live):
                _merge(best, total, mixed, out, b, head, live, SPLITS, G, GM, HKV, D, DP)


@triton.jit
def _is_last(arrivals, live):
    """Count this split as done; whether all live ones are, then with the count 0 again."""
    tl.debug_barrier()  # the stores of all threads come before one of them counts
    is_last = tl.atomic_add(arrivals, 1, sem="acq_rel", scope="gpu") == live - 1
    tl.store(arrivals, 0, mask=is_last)
    return is_last


@triton.jit
def _block(held, t, d, position, D: tl.constexpr):
    """Keys or values [BT, DP] that were there before this step, zeros for others."""
    is_old = (t < position)[:, None] & (d < D)[None, :]
    return tl.load(held + t[:, None] * D + d[None, :], mask=is_old, other=0.0)


@triton.jit
def _rotation(cos, sin, position, d, D: tl.constexpr):
    """Cosines and sines [DP] of a position; the sines of the first half are negative."""
    angle = position * (D // 2) + d % (D // 2)
    has_angle = (d < D) & (position >= 0)
    s = tl.load(sin + angle, mask=has_angle, other=0.0)
    return tl.load(cos + angle, mask=has_angle, other=0.0), tl.where(d < D // 2, -s, s)


@triton.jit
def _rotated(vectors, d, inside, c, s, D: tl.constexpr):
    """Queries or a key in float32: d and d + D / 2 are one pair."""
    x = tl.load(vectors + d, mask=inside, other=0.0).to(tl.float32)
    partner = tl.load(vectors + (d + D // 2) % D, mask=inside, other=0.0).to(tl.float32)
    return x * c + partner * s


@triton.jit
def _see(m, total, acc, q, k, v, t, position, SCALE, DOT: tl.constexpr):
    """Take a block of old keys and values [BT, DP] into the softmax of the queries [GP, DP].

    The block has an old key, or m is finite already.
    """
    if DOT:
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    else:
        scores = tl.sum(q[:, None, :] * k[None, :, :].to(tl.float32), 2)
    scores = tl.where((t < position)[None, :], scores * SCALE, float("-inf"))
    new_m = tl.maximum(m, tl.max(scores, 1))
    weights = tl.exp2(scores - new_m[:, None])
    shrink = tl.exp2(m - new_m)
    total = total * shrink + tl.sum(weights, 1)
    if DOT:
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
    else:
        seen = tl.sum(weights[:, :, None] * v[None, :, :].to(tl.float32), 1)
        acc = acc * shrink[:, None] + seen
    return new_m, total, acc


@triton.jit
def _merge(
    best, total, mixed, out, b, head, live,
    SPLITS: tl.constexpr, G: tl.constexpr, GM: tl.constexpr, HKV: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """Put the live splits of one head together, in their order, whichever came last.

    Past the cache of the multiprocessor: other multiprocessors wrote them.
    """
    s, g, d = tl.arange(0, SPLITS), tl.arange(0, GM), tl.arange(0, DP)
    query = head * G + g
    is_live = (s < live)[:, None] & (g < G)[None, :]
    place = (b * G * HKV + query)[None, :] * SPLITS + s[:, None]
    m = tl.load(best + place, mask=is_live, other=-1e30, cache_modifier=".cg")
    t = tl.load(total + place, mask=is_live, other=1.0, cache_modifier=".cg")
    share = tl.exp2(m - tl.max(m, 0)[None, :])
    column = query[:, None] * D + d[None, :]
    place = (b * SPLITS + s)[:, None, None] * G * HKV * D + column[None, :, :]
    is_number = is_live[:, :, None] & (d < D)[None, None, :]
    parts = tl.load(mixed + place, mask=is_number, other=0.0, cache_modifier=".cg")
    merged = tl.sum(parts * share[:, :, None], 0) / tl.sum(t * share, 0)[:, None]
    is_query = (g < G)[:, None] & (d < D)[None, :]
    tl.store(out + b * G * HKV * D + column, merged.to(out.dtype.element_ty), mask=is_query)

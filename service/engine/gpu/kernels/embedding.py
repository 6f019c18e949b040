"""The first kernel of a step: each row's token, fed back on the device or given, and its vector."""

import triton
import triton.language as tl
from torch import Tensor

from service.engine.gpu.kernels.launch import Launch, allow_next, wait_for_inputs
from service.engine.gpu.tensors import StepRows


def embed(launch: Launch, rows: StepRows, embedding: Tensor, x: Tensor) -> None:
    """Write x [B, C] from the embedding [V, C]; zeros for a row without a slot."""
    width = embedding.shape[1]
    _embed[(x.shape[0],)](
        rows.token_ids,
        rows.slots,
        rows.last_tokens,
        embedding,
        x,
        C=width,
        CP=triton.next_power_of_2(width),
        **launch.options(warps=4),
    )


@triton.jit
def _embed(
    token_ids,
    slots,
    last_tokens,
    embedding,
    x,
    C: tl.constexpr,
    CP: tl.constexpr,
    PDL: tl.constexpr,
):
    # The next kernel is allowed only after the wait: so whatever filled the rows and the cache
    # before this step has ended for all kernels of the step, and they may read both early.
    wait_for_inputs(PDL)
    allow_next(PDL)
    row = tl.program_id(0)
    c = tl.arange(0, CP)
    slot = tl.load(slots + row)
    token = tl.load(token_ids + row)
    last = tl.load(last_tokens + slot, mask=slot >= 0, other=0)
    token = tl.where(token < 0, last, token).to(tl.int64)
    vector = tl.load(embedding + token * C + c, mask=(c < C) & (slot >= 0), other=0.0)
    tl.store(x + row * C + c, vector, mask=c < C)

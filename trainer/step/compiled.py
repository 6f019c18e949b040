"""A training step compiled by parts: one block, used again for all, and the head's loss.

Compiling the whole decoder takes several times as long and is no faster. Only what is trained is
compiled: without gradients (evaluation, samples, whose rows grow by a token each) a block runs as
it is, so that no other shape ever compiles anything. PyTorch's own norm and attention fuse here;
the forms of ``trainer.step.fused`` for CPUs would only hide them from the compiler.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lm.model.attention import CausalAttention
from lm.model.decoder import Decoder
from lm.model.layers import Block
from trainer.recipe.schema import Recipe
from trainer.step.fused.chunked_loss import chunked_cross_entropy, loss_and_gradients
from trainer.step.loss import IGNORED

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def why_not_compiled(device: torch.device) -> str | None:
    """A line that says why nothing compiles here (no C compiler, no Triton), or ``None``."""
    try:
        torch.compile(_probe, fullgraph=True)(torch.zeros(8, device=device))
    except Exception as error:  # noqa: BLE001 - whatever the compiler's parts raise, eager code runs
        return " ".join(str(error).split())[:200] or type(error).__name__
    return None


def is_to_be_compiled(recipe: Recipe, device: torch.device, warn: Callable[[str], None]) -> bool:
    """Whether to compile as a recipe says; where ``auto`` would but cannot, ``warn`` hears."""
    is_auto = recipe.compile == "auto"
    if not recipe.compile or (is_auto and device.type != "cuda"):
        return False
    keep_compiled_code()
    reason = why_not_compiled(device) if is_auto else None
    if reason is not None:
        warn(f"not compiled, which is slower: {reason}")
    return reason is None


def keep_compiled_code() -> None:
    """Keep what is compiled for the next start in the user's cache, not in /tmp; may be set."""
    if CACHE_VARIABLE in os.environ:
        return
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        place = Path(base) / "nestling" / "inductor"
        place.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter: neither HOME nor an entry of the user's in passwd
        return  # PyTorch's own place then
    if os.access(place, os.W_OK):
        os.environ[CACHE_VARIABLE] = str(place)


def compile_blocks(decoder: Decoder, backend: str = "inductor") -> None:
    """Make every block of a decoder run compiled code where gradients are wanted."""
    # One function for all blocks: they differ in their weights alone, so it compiles once.
    compiled = torch.compile(Block.forward, fullgraph=True, dynamic=False, backend=backend)
    for block in decoder.model.layers:
        plain = block.forward
        vars(block)["forward"] = functools.partial(_forward, block, compiled, plain)


def compiled_batch_loss(
    backend: str = "inductor",
) -> Callable[[Decoder, Tensor, Tensor], Tensor]:
    """``trainer.step.loss.batch_loss`` for a decoder whose blocks are compiled."""
    chunk_loss = torch.compile(loss_and_gradients, fullgraph=True, dynamic=False, backend=backend)

    def batch_loss(decoder: Decoder, inputs: Tensor, targets: Tensor) -> Tensor:
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        attend = CausalAttention(decoder.config.dropout if decoder.training else 0.0)
        hidden = decoder.hidden(inputs, positions, attend)
        return chunked_cross_entropy(
            hidden.flatten(0, 1),
            decoder.lm_head.weight,
            targets.flatten(),
            IGNORED,
            chunk_loss=chunk_loss,
        )

    return batch_loss


def _forward(
    block: nn.Module, compiled: Callable[..., Tensor], plain: Callable[..., Tensor], *arguments: Any
) -> Tensor:
    if torch.is_grad_enabled():
        return compiled(block, *arguments)
    return plain(*arguments)


def _probe(x: Tensor) -> Tensor:
    return x * 2 + 1

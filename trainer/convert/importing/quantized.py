"""Linear layers of ``torch.ao.quantization.quantize_dynamic``, as float weights again.

Such a layer keeps an int8 weight with its scale, and its bias as it was. The rounding cannot be
undone: what is served then is exactly what the int8 weights stand for.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

_PACKED = "._packed_params._packed_params"
_OF_A_LAYER = (_PACKED, "._packed_params.dtype", ".scale", ".zero_point")


def dequantized(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict with a ``weight`` and perhaps a ``bias`` for each quantised layer."""
    layers = [name.removesuffix(_PACKED) for name in state if name.endswith(_PACKED)]
    packed = {layer + suffix for layer in layers for suffix in _OF_A_LAYER}
    plain = {name: value for name, value in state.items() if name not in packed}
    for layer in layers:
        weight, bias = state[layer + _PACKED]
        plain[f"{layer}.weight"] = _unrounded(weight, state.values())
        if bias is not None:
            plain[f"{layer}.bias"] = bias
    return plain


def _unrounded(weight: Tensor, others: Iterable[Any]) -> Tensor:
    """The tensor that this one was rounded from if it is there too, as a tied head's is."""
    rounded = weight.dequantize()
    if weight.qscheme() == torch.per_tensor_affine:
        half_a_step = 0.51 * weight.q_scale()
        for other in others:
            if _is_near(other, rounded, half_a_step):
                return other
    return rounded


def _is_near(value: Any, tensor: Tensor, distance: float) -> TypeGuard[Tensor]:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.shape == tensor.shape
        and bool((value - tensor).abs().max() <= distance)
    )

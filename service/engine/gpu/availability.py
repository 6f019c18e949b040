"""Whether the fused kernels can run here: Triton, and a card that its code is compiled for.

Imports no Triton, so that a machine without one can ask.
"""

import importlib.metadata
import importlib.util
import os
import shutil

import torch

from lm.model.config import ModelConfig

OLDEST_TRITON = (3, 6)
COMPILERS = ("gcc", "clang")
"""What Triton looks for where ``CC`` does not say."""
OLDEST_CARD = (8, 0)
DEPENDENT_LAUNCH = (9, 0)
"""Compute capability from which a card has programmatic dependent launch."""
HEAD_DIMS = range(32, 129, 2)
MAX_MATRIX_NUMBERS = 2**31 - 1
"""The kernels count a matrix's numbers in 32 bits."""


def why_no_shape(config: ModelConfig) -> str | None:
    """What of a config the kernels do not compute; ``None`` if they compute all of it."""
    if not config.is_llama:
        return "the model is not of the plain Llama shape"
    if config.head_dim not in HEAD_DIMS:
        return f"head_dim {config.head_dim} is no even number from 32 to 128"
    widest = max(config.vocab_size, 2 * config.intermediate_size)
    if widest * config.hidden_size > MAX_MATRIX_NUMBERS:
        return f"a matrix of {widest} x {config.hidden_size} has 2^31 numbers or more"
    return None


def why_no_triton() -> str | None:
    """Why kernels in Triton cannot be compiled; ``None`` if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:  # nightly builds have another name for it
        return "Triton is installed, but does not say its version"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        return f"Triton {version} is older than {oldest}"
    # Triton compiles what launches a kernel with the system's compiler.
    if not os.environ.get("CC") and not any(map(shutil.which, COMPILERS)):
        return "Triton needs a C compiler: install gcc"
    return None


def why_no_card(device: torch.device) -> str | None:
    """Why a device cannot run the kernels; ``None`` if it can."""
    if device.type != "cuda":
        return f"{device.type} is no CUDA device"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CARD:
        return f"compute capability {capability[0]}.{capability[1]} is below 8.0"
    return None


def has_dependent_launch(device: torch.device) -> bool:
    """Whether a kernel may start, and load its weights, before the one before it has ended."""
    if device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(device) >= DEPENDENT_LAUNCH

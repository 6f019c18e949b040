"""Triton kernels of a step, one concept a module; each is tested against PyTorch's operators."""

"""Triton kernels of a draw, one concept a module."""

"""The decoder's step in C++, several times faster on a CPU than ``service.engine.pytorch.runner``.

``library`` declares the C functions that ``service.models.kernels.native`` has compiled;
``packing`` turns weights into what they multiply by; ``cache`` holds keys and values in their
layout; ``runner`` runs a plan. ``reference`` says slowly, in PyTorch, what each precision computes.
Without a compiler or on another processor nothing of this is used: the PyTorch path serves alone.
"""

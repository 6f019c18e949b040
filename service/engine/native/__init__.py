"""The decoder's step in C++: what ``service.engine.runner`` does, several times faster on a CPU.

``library`` declares the C functions that ``service.kernels`` has compiled; ``packing`` turns
weights into what they multiply by; ``cache`` holds keys and values in their layout; ``runner`` runs
a plan. ``reference`` says slowly, in PyTorch, what each precision computes. Without a compiler or
on another processor nothing of this is used: the PyTorch path serves alone.
"""

"""What computes: native kernels and their compiler, PyTorch, a GPU's choices."""

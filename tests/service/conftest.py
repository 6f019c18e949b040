"""One thread a matrix product: toys are too small for more, and other tests share the cores."""

import torch

torch.set_num_threads(1)

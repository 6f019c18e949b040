"""Triton's interpreter has to be chosen before anything imports Triton, PyTorch's compiler too."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

pytest_plugins = ["isolation", "worker_turns"]

"""Without a GPU Triton's kernels run in its interpreter, which must be chosen before its import."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

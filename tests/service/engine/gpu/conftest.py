"""Triton's kernels run in its interpreter, which has to be chosen before Triton is imported."""

import importlib.util
import os
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")


def let_ranges_have_computed_bounds() -> None:
    """Make a scalar of the interpreter an index again.

    Triton 3.6 takes ``int`` of an array of one element, which NumPy 2.4 refuses.
    """
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch


if importlib.util.find_spec("triton") is not None:
    let_ranges_have_computed_bounds()

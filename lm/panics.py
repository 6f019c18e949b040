"""Panics of libraries that are written in Rust, as errors that ``except Exception`` catches.

pyo3 raises a panic as ``PanicException``, which is a ``BaseException``: it ends threads, passes
every handler, and its text speaks of the library's source. Here it becomes an error without it.
"""

import contextlib
from collections.abc import Iterator

_MODULE = "pyo3_runtime"
"""Where pyo3 says its exception is from; each library has a class of its own, and exports none."""


class LibraryPanic(ValueError):
    """A library gave up on what it was given: a bug there, met by this input."""


def is_panic(error: BaseException) -> bool:
    """Whether an error is a panic of a library's."""
    return type(error).__module__ == _MODULE


@contextlib.contextmanager
def without_panics(what: str) -> Iterator[None]:
    """Raise ``LibraryPanic`` saying what failed, in place of a panic; all else passes.

    The panic's own text goes to standard error, where Rust's hook writes it, and nowhere else.
    """
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        panic = LibraryPanic(f"{what} failed inside its library")
    else:
        return
    raise panic

"""The compiled library: its C functions, their structures, and the threads that they run on.

Calls go through ctypes, which lets go of the interpreter's lock meanwhile.
"""

import ctypes

FORMATS = {"bfloat16": 0, "int8": 1, "int4": 2}
"""Precisions of packed weights, as ``step.hpp`` numbers them."""
DONE, OUT_OF_RANGE, NO_RESOURCES = range(3)
"""What C functions say of themselves, as ``step.hpp`` numbers it."""
PARTS = ("embed", "norm", "qkv", "rotate", "attention", "output", "gate_up", "down", "head")
"""Parts of a step, as ``step.hpp`` numbers them."""


class PackArguments(ctypes.Structure):
    """Rows of a weight to pack; see ``step.hpp``."""

    _fields_ = [
        ("weights", ctypes.c_void_p),
        *(
            (name, ctypes.c_int32)
            for name in ("count", "inputs", "first_row", "first_output", "run", "stride")
        ),
        ("matrix", ctypes.c_void_p),
    ]


class LayerWeights(ctypes.Structure):
    """One block's packed weights; see ``step.hpp``."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in ("attention_norm", "qkv", "output", "mlp_norm", "gate_up", "down")
    ]


class Shape(ctypes.Structure):
    """Sizes of a model; see ``step.hpp``."""

    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in (
                *("layers", "hidden", "inner", "heads", "kv_heads", "head_dim", "vocab"),
                *("max_rows", "max_positions", "format", "head_format"),
            )
        ),
        ("epsilon", ctypes.c_float),
    ]


class ModelWeights(ctypes.Structure):
    """All packed weights; see ``step.hpp``."""

    _fields_ = [
        ("layers", ctypes.POINTER(LayerWeights)),
        *((name, ctypes.c_void_p) for name in ("final_norm", "embedding", "head", "cos", "sin")),
    ]


class StepArguments(ctypes.Structure):
    """One step; see ``step.hpp``."""

    _fields_ = [
        ("rows", ctypes.c_int32),
        ("logit_rows", ctypes.c_int32),
        *(
            (name, ctypes.c_void_p)
            for name in ("token_ids", "positions", "slots", "logit_row", "keys", "values")
        ),
        ("num_slots", ctypes.c_int32),
        ("max_tokens", ctypes.c_int32),
        ("logits", ctypes.c_void_p),
        ("logits_stride", ctypes.c_int64),
        ("finite", ctypes.c_void_p),
        ("nanoseconds", ctypes.c_void_p),
    ]


STRUCTURES: tuple[type[ctypes.Structure], ...] = (
    PackArguments,
    LayerWeights,
    Shape,
    ModelWeights,
    StepArguments,
)
"""In the order of ``nestling_structure_bytes``."""


class Library:
    """The kernels for one instruction set, and the threads that they run on.

    One a process: models share the threads, which a second step at the same time does without.
    Raises ``OSError`` for a file that is no such library, or threads that cannot be had.
    """

    def __init__(self, path: str, isa: str, threads: int) -> None:
        self.isa = isa
        self.threads = threads
        self.functions = _declare(ctypes.CDLL(path), path)
        _compare_structures(self.functions, path)
        pool = self.functions.nestling_pool_new(threads)
        if not pool:
            raise OSError(f"{threads} threads cannot be had")
        self._pool = ctypes.c_void_p(pool)
        self._alone: ctypes.c_void_p | None = None

    @property
    def pool(self) -> ctypes.c_void_p:
        """Handle of the threads."""
        return self._pool

    def __del__(self) -> None:
        """End the threads."""
        for pool in (getattr(self, "_pool", None), getattr(self, "_alone", None)):
            if pool is not None:
                self.functions.nestling_pool_free(pool)

    def pack(self, precision: str, arguments: PackArguments, threads: int) -> None:
        """Pack rows on so many threads of their own; raises ``MemoryError``."""
        _check(self.functions.nestling_pack(FORMATS[precision], arguments, threads))

    def alone(self) -> ctypes.c_void_p:
        """Handle of a pool of the calling thread alone, for what must not take the threads."""
        if self._alone is None:
            pool = self.functions.nestling_pool_new(1)
            if not pool:
                raise MemoryError("no memory for a pool")
            self._alone = ctypes.c_void_p(pool)
        return self._alone

    def step(
        self,
        model: ctypes.c_void_p,
        arguments: StepArguments,
        pool: ctypes.c_void_p | None = None,
    ) -> None:
        """Compute one step, by default on the library's threads.

        Raises:
            IndexError: a number of the step would index past an array; nothing was computed.
            MemoryError: there is no memory for it.

        """
        _check(self.functions.nestling_step(model, pool or self._pool, arguments))


def _check(outcome: int) -> None:
    if outcome == OUT_OF_RANGE:
        raise IndexError("a step's numbers are out of range")
    if outcome != DONE:
        raise MemoryError("the native kernels got no memory or no threads")


def _compare_structures(functions: ctypes.CDLL, path: str) -> None:
    """Raise ``OSError`` if the library's structures are not those of this module."""
    for number, structure in enumerate(STRUCTURES):
        theirs, ours = functions.nestling_structure_bytes(number), ctypes.sizeof(structure)
        if theirs != ours:
            raise OSError(f"{path}: {structure.__name__} has {theirs} bytes there and {ours} here")


def _declare(functions: ctypes.CDLL, path: str) -> ctypes.CDLL:
    """Give the C functions their types; raises ``OSError`` if one is missing."""
    pointer, int32 = ctypes.c_void_p, ctypes.c_int32
    signatures: dict[str, tuple[object, list[object]]] = {
        "nestling_structure_bytes": (int32, [int32]),
        "nestling_pool_new": (pointer, [int32]),
        "nestling_pool_free": (None, [pointer]),
        "nestling_packed_bytes": (ctypes.c_int64, [int32, int32, int32]),
        "nestling_pack": (int32, [int32, ctypes.POINTER(PackArguments), int32]),
        "nestling_multiply": (
            int32,
            [pointer, int32, pointer, int32, int32, pointer, int32, pointer],
        ),
        "nestling_model_new": (
            pointer,
            [ctypes.POINTER(Shape), ctypes.POINTER(ModelWeights)],
        ),
        "nestling_model_free": (None, [pointer]),
        "nestling_step": (int32, [pointer, pointer, ctypes.POINTER(StepArguments)]),
    }
    for name, (result, arguments) in signatures.items():
        try:
            function = getattr(functions, name)
        except AttributeError as error:
            raise OSError(f"{path} has no function {name}") from error
        function.restype, function.argtypes = result, arguments
    return functions

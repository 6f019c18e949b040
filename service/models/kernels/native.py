"""Opens the native kernels for this processor: the fastest instruction set that works here.

``python -m service.models.kernels.native`` compiles them ahead of time, as ``make install`` has it.
"""

import logging
import sys

from lm.machine.cores import usable_cores
from service.engine.native.library import Library
from service.models.kernels import processor
from service.models.kernels.compiler import NoKernels, library_path, ship
from service.models.kernels.processor import INSTRUCTION_SETS, InstructionSet

__all__ = ["NoKernels", "open_library", "supported_isas"]

logger = logging.getLogger(__name__)


def open_library(isa: str | None = None, threads: int | None = None) -> Library:
    """The kernels for an instruction set, by default this processor's fastest that works.

    Raises ``NoKernels``: another processor, no compiler, or one that refuses.
    """
    candidates = [one for one in INSTRUCTION_SETS if one.name == isa]
    if isa is None:
        candidates = processor.supported()
    if not candidates:
        names = ", ".join(one.name for one in processor.of_machine()) or "no instruction set"
        raise NoKernels(
            f"there are kernels for {names} of {processor.machine()}: not this processor"
        )
    reasons: list[str] = []
    for candidate in candidates:
        try:
            library = _open(candidate, threads or usable_cores())
        except NoKernels as error:
            reasons.append(str(error))
            continue
        if reasons:
            logger.warning("%s instead of the fastest kernels: %s", library.isa, reasons[0])
        return library
    raise NoKernels("; ".join(dict.fromkeys(reasons)))


def supported_isas() -> list[str]:
    """Names of this processor's instruction sets that there are kernels for, the faster first."""
    return [isa.name for isa in processor.supported()]


def _open(isa: InstructionSet, threads: int) -> Library:
    path = library_path(isa)
    try:
        return Library(str(path), isa.name, threads)
    except OSError as error:
        raise NoKernels(f"cannot load {path}: {error}") from error


def main() -> None:
    """Compile for this processor and say where the kernels are, or why there are none.

    ``--ship`` compiles for every processor of this machine's kind into the package.
    """
    try:
        if sys.argv[1:] == ["--ship"]:
            sys.stdout.writelines(f"{path}\n" for path in ship(processor.of_machine()))
            return
        library = open_library(threads=1)
        path = next(library_path(isa) for isa in INSTRUCTION_SETS if isa.name == library.isa)
        sys.stdout.write(f"native kernels for {library.isa}: {path}\n")
    except NoKernels as error:
        sys.stdout.write(f"no native kernels, PyTorch will serve: {error}\n")


if __name__ == "__main__":
    main()

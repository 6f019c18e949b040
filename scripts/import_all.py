"""Imports every module of the four programs: what needs another operating system is found here.

Modules of Triton kernels are left out where Triton is not installed, as on macOS.
"""

import importlib
import importlib.util
import pkgutil
import sys

PROGRAMS = ("nestling", "lm", "trainer", "service", "playground")
OPTIONAL = ("triton",)
"""Libraries that some systems have no build of."""


def main() -> int:
    """Print what cannot be imported; 1 if anything cannot."""
    names = [name for program in PROGRAMS for name in module_names(program)]
    problems = [problem for name in names if (problem := why_not(name)) is not None]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(names) - len(problems)} of {len(names)} modules can be imported")
    return 1 if problems else 0


def module_names(program: str) -> list[str]:
    """Names of a program's modules, programs that run when they are imported aside."""
    package = importlib.import_module(program)
    found = pkgutil.walk_packages(package.__path__, f"{program}.")
    return [program, *(one.name for one in found if not one.name.endswith("__main__"))]


def why_not(name: str) -> str | None:
    """Why a module cannot be imported, if it cannot and should."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] in OPTIONAL:
            return None
        return f"{name}: {error}"
    except Exception as error:  # noqa: BLE001  whatever it is, it is told
        return f"{name}: {type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    sys.exit(main())

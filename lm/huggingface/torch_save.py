"""Opens what ``torch.save`` wrote without running anything that is in it.

A pickle is a program. ``weights_only=True`` interprets the little of that language that tensors
and plain containers need; a file that asks for more is refused, and the refusal names what it
asked for.
"""

import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch

_REFUSED_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_HARMLESS = ("torch.", "collections.OrderedDict")
_TEXT = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_FROM_MEMO = {"BINGET", "LONG_BINGET"}
_GLOBAL = {"STACK_GLOBAL", "GLOBAL", "INST"}


def load_pickled(path: Path) -> Any:
    """Content of a ``torch.save`` file, its tensors on the CPU.

    Raises ``ValueError`` in one line if it cannot be read, or wants anything but plain data.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they warn of is an error here, with a reason
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # the file's bytes decide which
        raise ValueError(f"{path}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    """One line on why a file was refused."""
    refused = _REFUSED_GLOBAL.search(str(error))
    wanted = refused[1] if refused else _unusual_global(path)
    if wanted is not None:
        return (
            f"refused: it asks for {wanted}, which weights do not need, and nothing of it was run; "
            "save the model's state_dict() alone where it was written"
        )
    lines = [line.strip() for line in str(error).splitlines()]
    detail = next((line for line in lines if line.startswith("Unsupported")), lines and lines[0])
    return f"not a checkpoint that can be read safely: {type(error).__name__} {detail or ''}"


def _unusual_global(path: Path) -> str | None:
    """The first global that no tensor needs, in a pickle that torch cannot follow so far."""
    with suppress(ValueError, OSError, zipfile.BadZipFile):
        if not zipfile.is_zipfile(path):
            with path.open("rb") as stream:
                return next(_unusual(stream), None)
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    with archive.open(name) as stream:
                        return next(_unusual(stream), None)
    return None


def _unusual(stream: IO[bytes]) -> Iterator[str]:
    """Globals that a pickle names, read as text: nothing is looked up."""
    memo: list[str] = []
    texts = [""]
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "MEMOIZE":
            memo.append(texts[-1])
        elif opcode.name in _TEXT:
            texts.append(str(argument))
        elif opcode.name in _FROM_MEMO and isinstance(argument, int) and argument < len(memo):
            texts.append(memo[argument])
        elif opcode.name in _GLOBAL:
            by_stack = opcode.name == "STACK_GLOBAL"
            name = ".".join(texts[-2:]) if by_stack else str(argument).replace(" ", ".")
            if not name.startswith(_HARMLESS):
                yield name

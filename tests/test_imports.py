"""The laws of imports: trainer → lm ← service, wings of a program in layers, no circle anywhere."""

import ast
import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = ("nestling", "lm", "trainer", "service", "playground")
MAX_MODULES = 12
"""In one folder, its ``__init__`` aside."""

FORBIDDEN = {
    "nestling": ("lm", "trainer", "service", "playground", "torch"),
    "lm": ("trainer", "service", "playground", "fastapi", "prometheus_client", "transformers"),
    "trainer": ("service", "playground", "fastapi"),
    "service": ("trainer", "playground"),
    "playground": ("lm", "trainer", "service", "torch"),
    "service/engine": (
        *("lm.volume", "fastapi", "starlette", "prometheus_client", "pathlib", "socket"),
    ),
    "service/requests": ("fastapi", "starlette", "lm.volume"),
    "service/models": ("fastapi", "starlette"),
}
"""What a folder must know nothing of."""

_LEAVES = {"errors", "excerpts", "signals", "temporary_directory", "version"}
_BELOW_RUNTIME = {"engine", "models", "requests", "observe", "settings", *_LEAVES}
MAY_IMPORT: Mapping[str, Mapping[str, set[str]]] = {
    "lm": {
        "machine": set(),
        "model": set(),
        "template": set(),
        "text": {"template", "panics", "side_files"},
        "trial": {"template", "text", "panics", "side_files"},
        "huggingface": {"model", "text", "trial", "sampling_defaults", "side_files"},
        "volume": {
            *("huggingface", "model", "text", "trial"),
            *("plain_file", "safetensors_file", "side_files"),
        },
    },
    "trainer": {
        "recipe": set(),
        "step": {"recipe"},
        "data": {"recipe", "step"},
        "report": {"step"},
        "run": {"data", "recipe", "report", "step"},
        "convert": {"data", "recipe", "report", "run", "step", "options"},
    },
    "service": {
        **{name: {"excerpts"} for name in _LEAVES},
        "engine": set(),
        "observe": {"engine", *_LEAVES},
        "settings": {"observe"},
        "requests": {"engine", "observe", "settings", *_LEAVES},
        "models": {"engine", "observe", "settings", *_LEAVES},
        "front": _BELOW_RUNTIME,
        "runtime": {"front", *_BELOW_RUNTIME},
        "http": {"runtime", "front", *_BELOW_RUNTIME},
        "processes": {"http", "runtime", "front", *_BELOW_RUNTIME},
    },
}
"""By program and wing, its other wings and modules that a wing may import."""

PURE = [
    *("engine", "output_text", "pytorch/batch", "sampling/rows", "scheduling/penalties"),
    *("scheduling/scheduler", "scheduling/slots", "scheduling/waiting_queue"),
    "scheduling/prefill_pace",
]


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: relative import"
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    return modules


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports() -> Mapping[str, set[str]]:
    """By module of ours, the modules of ours that it imports."""
    files = {
        module_of(path): path for program in PROGRAMS for path in (ROOT / program).rglob("*.py")
    }
    return {
        module: {
            found
            for name in imported_modules(path)
            for found in (name, name.rpartition(".")[0])
            if found in files and found != module
        }
        for module, path in files.items()
    }


def entries() -> Iterator[tuple[str, str, str, str]]:
    """Each import as (folder, entry, imported entry, the import); both lie in the folder."""
    for module, found in imports().items():
        for other in found:
            ours, theirs = module.split("."), other.split(".")
            depth = next(
                (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None
            )
            if depth is not None:
                folder = ".".join(ours[:depth])
                yield folder, ours[depth], theirs[depth], f"{module} imports {other}"


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_only_what_is_nearer_the_data(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    broken = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in imported_modules(path)
        for forbidden in FORBIDDEN[package]
        if module == forbidden or module.startswith(f"{forbidden}.")
    ]
    assert broken == []


@pytest.mark.parametrize("program", MAY_IMPORT)
def test_a_wing_imports_only_wings_below_it(program: str) -> None:
    wings = MAY_IMPORT[program]
    folders = {path.name for path in (ROOT / program).iterdir() if (path / "__init__.py").exists()}
    assert folders <= wings.keys(), "a folder without a law"
    broken = [
        said
        for folder, ours, theirs, said in entries()
        if folder == program and ours in wings and theirs not in wings[ours]
    ]
    assert broken == []


def test_no_circle_of_imports_among_the_folders_and_modules_of_a_folder() -> None:
    edges: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for folder, ours, theirs, _ in entries():
        edges[folder][ours].add(theirs)
    assert len(edges) > 20
    for folder, among in edges.items():
        left = {name: set(found) for name, found in among.items()}
        while free := [name for name, found in left.items() if not found & left.keys()]:
            for name in free:
                del left[name]
        assert left == {}, f"a circle in {folder or 'the repository'}"


def test_folders_are_small() -> None:
    folders = {path.parent for program in PROGRAMS for path in (ROOT / program).rglob("*.py")}
    too_large = [
        str(folder.relative_to(ROOT))
        for folder in folders
        if sum(path.name != "__init__.py" for path in folder.glob("*.py")) > MAX_MODULES
    ]
    assert too_large == []


@pytest.mark.parametrize("pure", PURE)
def test_the_core_of_the_engine_knows_no_clock_and_no_thread(pure: str) -> None:
    modules = imported_modules(ROOT / "service" / "engine" / f"{pure}.py")
    assert not {module.split(".")[0] for module in modules} & {"time", "threading", "asyncio", "os"}


def test_every_module_opens_with_a_docstring() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for package in (*PROGRAMS, "bench", "scripts")
        for path in (ROOT / package).rglob("*.py")
        if ast.get_docstring(ast.parse(path.read_text("utf-8"))) is None
    ]
    assert silent == []

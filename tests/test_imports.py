"""The law of imports: trainer → lm ← service; inside service, api → engine → lm."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FORBIDDEN = {
    "nestling": ("lm", "trainer", "service", "playground", "torch"),
    "lm": ("trainer", "service", "playground", "fastapi", "prometheus_client", "transformers"),
    "trainer": ("service", "playground", "fastapi"),
    "service": ("trainer", "playground"),
    "playground": ("lm", "trainer", "service", "torch"),
    "service/engine": (
        "service.api",
        "service.http.app",
        "service.runtime",
        "service.models.loading.loader",
        "service.models.watcher",
        "service.observe.metrics",
        "service.settings.schema",
        "lm.volume",
        "fastapi",
        "starlette",
        "prometheus_client",
        "pathlib",
        "socket",
    ),
}


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: relative import"
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    return modules


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


@pytest.mark.parametrize("pure", ["scheduler", "slots", "sampling", "batch", "text", "engine"])
def test_the_core_of_the_engine_knows_no_clock_and_no_thread(pure: str) -> None:
    modules = imported_modules(ROOT / "service" / "engine" / f"{pure}.py")
    assert not {module.split(".")[0] for module in modules} & {"time", "threading", "asyncio", "os"}


def test_every_module_opens_with_a_docstring() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for package in ("nestling", "lm", "trainer", "service", "playground", "bench", "scripts")
        for path in (ROOT / package).rglob("*.py")
        if ast.get_docstring(ast.parse(path.read_text("utf-8"))) is None
    ]
    assert silent == []

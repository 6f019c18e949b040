"""What the pages list is what there is: routes, metrics, error codes."""

import inspect
import re
from pathlib import Path

from fastapi.routing import APIRoute
from prometheus_client import generate_latest

from service import errors
from service.http.operations import checkpoints, health, history, home, models
from service.http.protocols import tokenize as tokens
from service.http.protocols.nestling import generate
from service.http.protocols.openai import routes as openai
from service.http.protocols.tgi import routes as tgi
from service.observe.metrics import Metrics
from trainer.report.metrics import Metrics as TrainerMetrics

DOCS = Path(__file__).parent.parent / "docs"


def test_the_http_page_names_every_route() -> None:
    page = (DOCS / "http.md").read_text("utf-8")
    rooms = (checkpoints, generate, health, history, home, models, openai, tgi, tokens)
    routes = [route for room in rooms for route in room.router.routes]
    paths = [route.path for route in routes if isinstance(route, APIRoute)]
    assert "/generate" in paths
    assert [path for path in paths if f"{path}`" not in page] == []


def test_the_http_page_names_every_error_code() -> None:
    page = (DOCS / "http.md").read_text("utf-8")
    tree = [error for _, error in inspect.getmembers(errors, inspect.isclass)]
    leaves = [error for error in tree if error is not errors.ServiceError]
    assert [error.code for error in leaves if f"`{error.code}`" not in page] == []


def test_the_operations_page_names_every_metric_and_no_other() -> None:
    service = Metrics(wall_clock=lambda: 0.0).exposition()
    trainer = generate_latest(TrainerMetrics().registry)
    named = re.findall(r"`(nestling_[a-z0-9_]+)", (DOCS / "operations.md").read_text("utf-8"))
    assert sorted(set(named) ^ (metric_names(service) | metric_names(trainer))) == []


def test_what_the_pages_say_to_make_can_be_made() -> None:
    targets = re.findall(
        r"^([a-z-]+):", (DOCS.parent / "Makefile").read_text("utf-8"), re.MULTILINE
    )
    pages = [*DOCS.glob("*.md"), DOCS.parent / "README.md"]
    said = [
        (page.name, one)
        for page in pages
        for one in re.findall(r"`make ([a-z-]+)", page.read_text("utf-8"))
    ]
    assert len(said) > 5
    assert [one for one in said if one[1] not in targets] == []


def test_files_that_the_pages_name_are_there() -> None:
    root = DOCS.parent
    there = [
        path.relative_to(root).as_posix()
        for folder in (
            "bench",
            "lm",
            "docker",
            "nestling",
            "playground",
            "scripts",
            "service",
            "tests",
            "trainer",
        )
        for path in (root / folder).rglob("*.py")
    ]
    pages = [*DOCS.glob("*.md"), root / "README.md", root / "CONTRIBUTING.md"]
    named = {
        (page.name, name)
        for page in pages
        for name in re.findall(r"`([\w/]+\.py)`", page.read_text("utf-8"))
    }
    assert len(named) > 30
    missing = [
        one
        for one in named
        if "NAME" not in one[1] and not any(f"/{path}".endswith(f"/{one[1]}") for path in there)
    ]
    assert missing == []


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    pages = sorted(page.name for page in DOCS.glob("*.md") if page.name != "README.md")
    assert [page for page in pages if f"({page})" not in index] == []


def metric_names(exposition: bytes) -> set[str]:
    names = re.findall(r"^# TYPE (\w+)", exposition.decode(), re.MULTILINE)
    return {name for name in names if not name.endswith("_created")}

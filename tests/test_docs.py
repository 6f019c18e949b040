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


def metric_names(exposition: bytes) -> set[str]:
    names = re.findall(r"^# TYPE (\w+)", exposition.decode(), re.MULTILINE)
    return {name for name in names if not name.endswith("_created")}

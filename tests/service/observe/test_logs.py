import io
import json
import logging
from collections.abc import Iterator

import pytest

from service.observe import logs

LINE_BREAK = "x\n2026-01-01 ERROR root: forged"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


def logged(log_format: logs.LogFormat, stream: io.StringIO | None = None) -> str:
    """What one stream got of a line with fields and of one below the level."""
    stream = stream or io.StringIO()
    logs.configure("info", log_format, stream)
    fields = {"id": LINE_BREAK, "ttft_s": 0.01234567890, "queue_s": None, "client_gone": False}
    logging.getLogger("service.x").info("request %s", "ended", extra={"fields": fields})
    logging.getLogger("service.x").debug("not this")
    return stream.getvalue()


def test_json_is_an_object_a_line() -> None:
    (line,) = logged("json").splitlines()
    entry = json.loads(line)
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "INFO",
        "logger": "service.x",
        "message": "request ended",
        "id": LINE_BREAK,
        "ttft_s": 0.012346,
        "queue_s": None,
        "client_gone": False,
    }


def test_a_console_line_can_be_read_and_not_be_forged() -> None:
    (line,) = logged("console").splitlines()
    assert "INFO service.x: request ended id=" in line
    assert line.endswith("ttft_s=0.012346 client_gone=false")


@pytest.mark.parametrize(
    ("stream", "begins_with"), [(io.StringIO(), "{"), (Terminal(), "2")], ids=["pipe", "terminal"]
)
def test_auto_is_for_people_in_a_terminal_alone(stream: io.StringIO, begins_with: str) -> None:
    assert logged("auto", stream).startswith(begins_with)


def test_uvicorn_speaks_the_same_way() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logging.getLogger("uvicorn.error").info("Uvicorn running on %s", "http://127.0.0.1:8000")
    assert json.loads(stream.getvalue())["message"] == "Uvicorn running on http://127.0.0.1:8000"


def test_a_traceback_stays_within_its_object() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("service.x").exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["exception"].endswith("ValueError: no")

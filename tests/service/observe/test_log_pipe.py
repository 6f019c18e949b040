import fcntl
import logging
import os
from collections.abc import Iterator

import pytest
from serving import wait_until

from service.excerpts import excerpt
from service.observe.log_pipe import MAX_WAITING_BYTES, PipeHandler, report_drops


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    handlers: list[PipeHandler] = []
    begin = PipeHandler._begin
    monkeypatch.setattr(PipeHandler, "_begin", lambda self: (handlers.append(self), begin(self))[1])
    ends = os.pipe()
    fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, 4096)
    yield ends
    os.close(ends[0])
    # A thread that still writes must not write to whatever gets this number next.
    wait_until(lambda: not any(handler._num_bytes for handler in handlers), "all is given up")
    os.close(ends[1])


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("service", logging.INFO, "", 0, text, (), None)


def test_lines_are_written_in_order_and_flushed(pipe: tuple[int, int]) -> None:
    handler = PipeHandler(pipe[1])
    for number in range(100):
        handler.handle(record(str(number)))
    handler.flush()
    assert os.read(pipe[0], 4096).decode().split() == [str(number) for number in range(100)]


def test_what_nobody_reads_is_dropped_counted_and_said(pipe: tuple[int, int]) -> None:
    handler, lost = PipeHandler(pipe[1]), []
    root = logging.getLogger()
    root.addHandler(handler)
    report_drops(lost.append)
    root.removeHandler(handler)
    num_lines = 3 * MAX_WAITING_BYTES // 1000
    for _ in range(num_lines):
        handler.handle(record("x" * 999))
    assert num_lines / 2 < sum(lost) < num_lines
    said = b""
    while b"were dropped" not in said:
        said = said[-1000:] + os.read(pipe[0], 4096)
    assert f"{sum(lost)} log lines were dropped".encode() in said


def test_a_reader_that_is_gone_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    handler, lost = PipeHandler(write_end), []
    handler.on_dropped = lost.append
    handler.handle(record("a"))
    handler.flush()
    assert lost == [1]
    os.close(write_end)


def test_a_forked_process_has_a_thread_of_its_own(pipe: tuple[int, int]) -> None:
    handler = PipeHandler(pipe[1])
    handler._begin()  # as after a fork: what waited is the parent's
    handler.handle(record("child"))
    handler.flush()
    assert os.read(pipe[0], 4096) == b"child\n"


@pytest.mark.parametrize(
    ("given", "expected"), [("abc", "abc"), ("abcdef", "abc…"), (12345, "123…"), ("", "")]
)
def test_an_excerpt_is_never_longer(given: object, expected: str) -> None:
    assert excerpt(given, 4) == expected

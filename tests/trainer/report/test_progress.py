import logging
import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from toy_events import trained

from trainer.report.log import Log
from trainer.report.progress import LOGGER, ON_BAR, show


def test_without_a_terminal_every_line_is_plain_text(tmp_path: Path) -> None:
    file = StringIO()
    with show(tmp_path, total=10, done=0, console=Console(file=file)) as bar:
        bar.update(5, "loss 2.0")
        logging.getLogger(LOGGER).info("step 5 · loss 2.0", extra=ON_BAR)
        logging.getLogger(LOGGER).info("saved")
    first, second = file.getvalue().splitlines()
    assert first.endswith("trainer: step 5 · loss 2.0")
    assert second.endswith("trainer: saved")
    assert "\x1b" not in file.getvalue()


def test_a_terminal_shows_a_bar_in_place_of_the_lines_that_it_stands_for(tmp_path: Path) -> None:
    file = StringIO()
    console = Console(file=file, force_terminal=True, width=120, color_system=None)
    with show(tmp_path / "", total=10, done=2, console=console) as bar:
        logging.getLogger(LOGGER).info("step 5 · loss 2.0", extra=ON_BAR)
        logging.getLogger(LOGGER).info("[saved]")
        bar.update(5, "loss 2.0 · lr 1e-3")
    shown = file.getvalue()
    assert "5/10" in shown
    assert "loss 2.0 · lr 1e-3" in shown
    assert "eta" in shown
    assert "[saved]" in shown
    assert "step 5 ·" not in shown


@pytest.mark.parametrize("width", [80, 100])
def test_all_figures_fit_a_terminal(width: int, tmp_path: Path) -> None:
    file = StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None)
    with show(tmp_path, total=5050, done=0, console=console) as bar:
        Log(bar, total_steps=5050).hear(trained(3210, loss=3.25, loss_average=3.5))
    line = file.getvalue().rpartition("\r")[2]
    for figure in ("3210/5050", "loss 3.250", "avg 3.500", "lr 1.0e-03", "tok/s", "1.5 GiB"):
        assert figure in line
    assert "eta -:--:--" in line
    assert ("━" in line) is (width == 100)


def test_the_log_file_holds_every_line_with_its_time(tmp_path: Path) -> None:
    for text in ("first call", "second call"):
        console = Console(file=StringIO(), force_terminal=True)
        with show(tmp_path, total=1, done=0, console=console):
            logging.getLogger(LOGGER).info(text, extra=ON_BAR)
    lines = (tmp_path / "training.log").read_text().splitlines()
    assert [line.split(" ", 3)[2:] for line in lines] == [
        ["INFO", "first call"],
        ["INFO", "second call"],
    ]


def test_handlers_are_gone_afterwards(tmp_path: Path) -> None:
    before = list(logging.getLogger(LOGGER).handlers)
    with show(tmp_path, total=1, done=0, console=Console(file=StringIO())):
        assert len(logging.getLogger(LOGGER).handlers) == len(before) + 2
    assert logging.getLogger(LOGGER).handlers == before


def test_a_pipe_for_a_log_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "training.log")
    with (
        pytest.raises(OSError, match=r"training\.log|No such device"),
        show(tmp_path, total=1, done=0, console=Console(file=StringIO())),
    ):
        pass

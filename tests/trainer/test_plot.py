from pathlib import Path

import pytest
from toy_events import evaluated, trained

from trainer.journal import Journal
from trainer.plot import plot


def test_a_run_s_curves_become_a_png(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(1, 6):
        journal.hear(trained(step))
    journal.hear(evaluated(5))
    plot(tmp_path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no metrics; is .* a run"):
        plot(tmp_path, tmp_path / "curves.png")

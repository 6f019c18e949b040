from pathlib import Path

import pytest

from trainer.journal import Journal
from trainer.plot import plot


def test_a_run_s_curves_become_a_png(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(1, 6):
        journal.train(
            {
                "step": step,
                "loss": 5.0 - step / 10,
                "loss_average": 5.0,
                "learning_rate": 1e-3,
                "tokens_per_s": 1000.0,
                "train_seconds": 2.0 * step,
            }
        )
    journal.evaluation(
        {"step": 5, "validation_loss": 4.8, "bits_per_byte": 2.9, "train_seconds": 10.0}
    )
    plot(tmp_path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no metrics; is .* a run"):
        plot(tmp_path, tmp_path / "curves.png")

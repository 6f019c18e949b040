import errno
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_events import evaluated, trained

from trainer.report.events import Began, Published, Sampled
from trainer.report.tensorboard import TensorBoard
from trainer.step.counters import Counters


def read(run_dir: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run_dir / "tensorboard"))
    accumulator.Reload()
    return accumulator


def curve(run_dir: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(run_dir).Scalars(name)]


def test_curves_and_samples_can_be_read_back(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    board.hear(Began(step=0, counters=Counters()))
    for step in (1, 2):
        board.hear(trained(step, loss=4.0 - step))
    board.hear(evaluated(2, validation_loss=4.75, bits_per_byte=2.5, gap=None))
    board.hear(Sampled(step=2, prompt="ROMEO:", text=" O, night!"))
    board.close()
    assert curve(tmp_path, "train/loss") == [(1, 3.0), (2, 2.0)]
    assert curve(tmp_path, "train/tokens_per_s") == [(1, 64.0), (2, 64.0)]
    assert curve(tmp_path, "evaluation/validation_loss") == [(2, 4.75)]
    assert "evaluation/gap" not in read(tmp_path).Tags()["scalars"]
    assert len(read(tmp_path).Tags()["tensors"]) == 1


def test_what_is_written_is_on_disk_when_a_checkpoint_is(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    board.hear(Began(step=0, counters=Counters()))
    board.hear(trained(1, loss=3.0))
    board.hear(Published(step=1, write_s=0.1, error=None))
    assert curve(tmp_path, "train/loss") == [(1, 3.0)]
    board.close()


def test_a_resumed_run_hides_what_it_writes_again(tmp_path: Path) -> None:
    for begin, end, loss in ((0, 4, 3.0), (2, 5, 2.0)):
        board = TensorBoard(tmp_path)
        board.hear(Began(step=begin, counters=Counters()))
        for step in range(begin + 1, end):
            board.hear(trained(step, loss=loss))
        board.close()
    assert curve(tmp_path, "train/loss") == [(1, 3.0), (2, 3.0), (3, 2.0), (4, 2.0)]


def test_without_tensorboard_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'nestling\[tensorboard\]'"):
        TensorBoard(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_before_a_run_begins(tmp_path: Path) -> None:
    TensorBoard(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_the_curves_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    board = TensorBoard(tmp_path)
    board.hear(Began(step=0, counters=Counters()))
    writer = board._writer

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "add_scalar", full)
    board.hear(trained(1))
    board.hear(trained(2))
    assert caplog.text.count("TensorBoard's curves end here: [Errno 28] No space left") == 1
    board.close()
    writer.close()

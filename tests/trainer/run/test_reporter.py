import pytest
import torch

from trainer.report.events import (
    Began,
    Evaluated,
    Event,
    Note,
    Published,
    Sampled,
    Skipped,
    Snapshotted,
    Trained,
)
from trainer.run.checkpoint import Written
from trainer.run.reporter import Report
from trainer.step.counters import Counters
from trainer.step.evaluate import Evaluation
from trainer.step.optimizer import Rates
from trainer.step.samples import Sample

RATES = Rates(lr=1e-3, muon_lr=2e-2, weight_decay=0.0)


class Ear:
    """Remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[Event] = []

    def hear(self, event: Event) -> None:
        self.heard.append(event)


@pytest.fixture
def ear() -> Ear:
    return Ear()


def report_to(*ears: Ear) -> Report:
    return Report(ears, torch.device("cpu"))


def counters(step: int, seconds: float) -> Counters:
    return Counters(micro_step=step, tokens_seen=64 * step, train_seconds=seconds, loss_average=3.5)


def test_speed_is_of_the_training_since_the_step_logged_before(ear: Ear) -> None:
    report = report_to(ear)
    for step, seconds in ((10, 2.0), (20, 6.0)):
        report.trained(step, counters(step, seconds), loss=3.0, gradient_norm=1.5, rates=RATES)
    first, second = ear.heard
    assert isinstance(first, Trained)
    assert isinstance(second, Trained)
    assert (first.tokens_per_s, second.tokens_per_s) == (320.0, 160.0)
    assert (second.loss, second.loss_average) == (3.0, 3.5)
    assert (second.learning_rate, second.gradient_norm) == (1e-3, 1.5)
    assert 2**20 < second.resident_bytes < 2**40
    assert second.gpu_bytes is None


def test_speed_is_compared_with_the_machine_s_peak_once_that_is_known(ear: Ear) -> None:
    report = report_to(ear)
    report.trained(10, counters(10, 2.0), loss=3.0, gradient_norm=1.5, rates=RATES)
    report.at_peak(1000, 640_000.0)
    report.trained(20, counters(20, 6.0), loss=3.0, gradient_norm=1.5, rates=RATES)
    shares = [event.share_of_peak for event in ear.heard if isinstance(event, Trained)]
    assert shares == [None, 0.25]


def test_a_resumed_run_s_first_speed_leaves_out_what_came_before(ear: Ear) -> None:
    report = report_to(ear)
    report.began(50, counters(50, 100.0))
    report.trained(60, counters(60, 110.0), loss=3.0, gradient_norm=1.0, rates=RATES)
    began, event = ear.heard
    assert began == Began(step=50, counters=counters(50, 100.0))
    assert isinstance(event, Trained)
    assert event.tokens_per_s == 64.0


def test_an_evaluation_tells_the_gap_to_the_training_average_and_the_verdict(ear: Ear) -> None:
    now = Counters(loss_average=3.5, memorised_in_a_row=3, best_step=4, best_validation_loss=3.8)
    report_to(ear).evaluated(10, now, Evaluation(4.0, 2.25, 512), seconds=0.5)
    (event,) = ear.heard
    assert isinstance(event, Evaluated)
    assert event.gap == pytest.approx(0.5)
    assert event.memorising
    assert (event.validation_loss, event.bits_per_byte, event.validation_tokens) == (4.0, 2.25, 512)
    assert (event.best_step, event.best_validation_loss) == (4, 3.8)


def test_an_evaluation_before_any_training_has_no_gap(ear: Ear) -> None:
    report_to(ear).evaluated(0, Counters(), Evaluation(4.0, 2.25, 512), seconds=0.5)
    (event,) = ear.heard
    assert isinstance(event, Evaluated)
    assert event.gap is None
    assert not event.memorising


def test_every_listener_hears_everything_in_order() -> None:
    ears = (Ear(), Ear())
    report = report_to(*ears)
    report.note("begins")
    report.warn("look")
    report.skipped(3, Counters(skipped_in_a_row=1, skipped_steps=4))
    report.sampled(4, Sample("ROMEO:\n", "O, night!"))
    report.saving(5, 0.25)
    report.written(Written(5, 1.5, None))
    report.written(Written(6, 0.5, OSError("No space left on device")))
    assert ears[0].heard == [
        Note("begins"),
        Note("look", is_warning=True),
        Skipped(step=3, in_a_row=1, skipped_steps=4),
        Sampled(step=4, prompt="ROMEO:\n", text="O, night!"),
        Snapshotted(step=5, stall_s=0.25),
        Published(step=5, write_s=1.5, error=None),
        Published(step=6, write_s=0.5, error="No space left on device"),
    ]
    assert ears[1].heard == ears[0].heard

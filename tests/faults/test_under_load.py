"""Whatever is published, or happens to the volume, under load: nobody notices but the operator.

One real service process and clients that never stop. In every case the old model keeps serving, no
request fails, and the reason is in the metrics and in ``GET /checkpoints``; then a good step
takes over.
"""

import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forked_processes import Nursery
from serving import ServiceProcess, wait_until
from serving.busy_clients import Crowd
from serving.damaged_steps import BAD_STEPS
from toys import publish_toy

from lm.volume import RunLock, sweep
from lm.volume.publish import PHASES

pytestmark = pytest.mark.slow  # tests/faults/test_swap.py is the short dose of it

YEAR_S = 365 * 24 * 3600


class Siege:
    """A service, its volume, its clients, and what can be done to them."""

    def __init__(self, volume: Path, control: Path, service: ServiceProcess, crowd: Crowd) -> None:
        self.volume = volume
        self.control = control
        self.service = service
        self.crowd = crowd
        self.numbers = itertools.count(1)

    def publish_good(self) -> str:
        """Publish a good step, wait until it serves and answers; returns its name."""
        number = next(self.numbers)
        publish_toy(self.volume, "toy", number, seed=number)
        self.service.wait_serving(f"toy@{number}")
        self.crowd.wait_for_answers(f"toy@{number}")
        return f"toy@{number}"

    def rejected(self, reason: str) -> float:
        """How often steps were refused for this reason."""
        metrics = self.service.metrics()
        return metrics.by_label("checkpoint_rejected_total", "reason").get(reason, 0)

    def listed(self, number: int) -> dict[str, Any]:
        """What ``GET /checkpoints`` says of a step."""
        listed = self.service.client.get("/checkpoints").json()["checkpoints"]
        found: list[dict[str, Any]] = [one for one in listed if one["step"] == number]
        return found[0] if found else {}

    def wait_refused(self, number: int, reason: str, before: float, good: str) -> None:
        """A step is refused, visibly and once; the good one goes on answering."""
        wait_until(lambda: self.rejected(reason) > before, f"{reason} is counted", timeout_s=60)
        one = self.listed(number)
        assert (one["status"], one["reason"]) == ("refused", reason)
        assert one["message"]
        assert self.service.client.get("/readyz").json()["checkpoint"] == good
        self.crowd.wait_for_answers(good)
        assert self.rejected(reason) == before + 1


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    place = tmp_path_factory.mktemp("siege")
    volume, control = place / "volume", place / "control"
    control.mkdir()
    publish_toy(volume, "toy", 0, seed=0)
    with ServiceProcess(volume, control=control, poll_interval_s=0.02, run="toy") as service:
        service.wait_serving("toy@0")
        with Crowd(service.client) as crowd:
            yield Siege(volume, control, service, crowd)


@pytest.mark.parametrize("kind", BAD_STEPS)
def test_a_bad_step(siege: Siege, kind: str) -> None:
    reason, publish_bad = BAD_STEPS[kind]
    good, before = siege.publish_good(), siege.rejected(reason)
    number = next(siege.numbers)
    publish_bad(siege.volume, number)
    siege.wait_refused(number, reason, before, good)
    siege.publish_good()


def test_a_step_that_never_completes(siege: Siege) -> None:
    good, before = siege.publish_good(), siege.rejected("incomplete")
    number = next(siege.numbers)
    (siege.volume / "toy" / f"step-{number:08d}").mkdir()
    wait_until(lambda: siege.listed(number).get("status") == "incomplete", "it is listed")
    siege.wait_refused(number, "incomplete", before, good)
    siege.publish_good()


def test_a_step_that_is_deleted_while_it_loads(siege: Siege) -> None:
    good, before = siege.publish_good(), siege.rejected("vanished")
    number = next(siege.numbers)
    (siege.control / "held").unlink(missing_ok=True)
    (siege.control / "hold").touch()
    step = publish_toy(siege.volume, "toy", number)
    wait_until((siege.control / "held").exists, "its weights are being read", timeout_s=60)
    shutil.rmtree(step.path)
    (siege.control / "hold").unlink()
    siege.wait_refused(number, "vanished", before, good)
    assert siege.listed(number)["on_volume"] is False
    siege.publish_good()


def test_a_disk_that_fails_and_recovers(siege: Siege) -> None:
    good, before = siege.publish_good(), siege.rejected("read_error")
    (siege.control / "fail").touch()
    number = next(siege.numbers)
    publish_toy(siege.volume, "toy", number, seed=number)
    siege.wait_refused(number, "read_error", before, good)
    (siege.control / "fail").unlink()
    siege.service.wait_serving(f"toy@{number}")
    assert siege.listed(number)["reason"] is None


def test_a_volume_that_vanishes_and_returns(siege: Siege) -> None:
    good = siege.publish_good()
    away = siege.volume.with_name("away")
    siege.volume.rename(away)
    wait_until(lambda: siege.service.metrics().value("volume_readable") == 0, "it is noticed")
    listed = siege.service.client.get("/checkpoints").json()
    assert listed["problem"] == "toy: No such file or directory"
    assert [one["name"] for one in listed["checkpoints"] if one["status"] == "served"] == [good]
    siege.crowd.wait_for_answers(good)
    away.rename(siege.volume)
    siege.publish_good()
    assert siege.service.metrics().value("volume_readable") == 1


@pytest.mark.parametrize("seconds", [-20 * YEAR_S, 20 * YEAR_S], ids=["back", "ahead"])
def test_a_clock_that_jumps(siege: Siege, seconds: int) -> None:
    good = siege.publish_good()
    (siege.control / "clock").write_text(str(seconds))
    siege.crowd.wait_for_answers(good)
    number = next(siege.numbers)
    step = publish_toy(siege.volume / ".draft", "toy", number, seed=number)
    for file in step.path.iterdir():
        os.utime(file, (1, 1) if seconds < 0 else (5e9, 5e9))
    step.path.rename(siege.volume / "toy" / step.path.name)
    siege.service.wait_serving(f"toy@{number}")
    assert siege.service.metrics().value("checkpoint_age_seconds") == pytest.approx(
        max(0, seconds), abs=600
    )
    (siege.control / "clock").unlink()
    siege.publish_good()


def test_nothing_of_all_that_failed_a_request(siege: Siege) -> None:
    siege.crowd.check()
    outcomes = siege.service.metrics().by_label("requests_total", "outcome")
    assert outcomes["error"] == outcomes["timeout"] == outcomes["abort"] == 0
    assert "Traceback" not in siege.service.log()


def test_a_trainer_killed_at_every_phase_of_a_publish(tmp_path: Path) -> None:
    """By ``kill -9``; what it leaves behind is never served, and the next trainer goes on."""
    publish_toy(tmp_path, "run", 0, seed=0)
    visible = PHASES[PHASES.index("renamed") :]
    with (
        Nursery.of(Path(__file__).with_name("crashing_writer.py")) as nursery,
        ServiceProcess(tmp_path, run="run") as service,
    ):
        service.wait_serving("run@0")
        newest = 0
        with Crowd(service.client, seed_of=lambda step: step % 4) as crowd:
            for step, phase in enumerate((*PHASES, "in a file"), start=1):
                if phase == "in a file":
                    nursery.start("die_in_the_middle_of_a_file", tmp_path / "run", step=step)
                else:
                    nursery.start("die_at_phase", tmp_path / "run", step=step, phase=phase)
                assert nursery.wait() == -signal.SIGKILL
                newest = step if phase in visible else newest
                service.wait_serving(f"run@{newest}")
                crowd.wait_for_answers(f"run@{newest}")
                with RunLock(tmp_path / "run"):
                    sweep(tmp_path / "run")
            crowd.check()
            listed = service.client.get("/checkpoints").json()["checkpoints"]
            assert [one["step"] for one in listed if one["status"] == "served"] == [newest]
            assert service.metrics().total("checkpoint_rejected_total") == 0

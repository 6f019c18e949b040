"""``make run``: one foreground job that trains, serves, and leaves nothing behind."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from serving import wait_until
from toy_run import toy_recipe

from lm.volume import newest_step

ROOT = Path(__file__).parents[2]
WITHOUT_LINUX = ROOT / "tests" / "scripts" / "without_linux"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe that would train for hours, with a checkpoint at every fifth step."""
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(toy_recipe("phases.0.steps=1000000").to_dict()))
    return path


@pytest.fixture
def job(recipe: Path, tmp_path: Path) -> Iterator["Job"]:
    with Job(recipe, tmp_path) as job:
        yield job


class Job:
    """``nestling run`` in a process group of its own, as a shell would start it."""

    def __init__(self, recipe: Path, tmp_path: Path, **environment: str) -> None:
        self._environment = os.environ | environment
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.volume = tmp_path / "volume"
        self._log = tmp_path / "job.log"
        options = ["--recipe", recipe, "--port", str(self.port), "--volume", self.volume]
        self._command = [sys.executable, "-m", "nestling", "run", *options]

    def __enter__(self) -> "Job":
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            for process in [*self.children(), self.process]:
                process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def children(self) -> list[psutil.Process]:
        """Of the service there is another one, which tries tokenizers and templates."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def programs(self) -> list[psutil.Process]:
        """Its own children: a service and a trainer."""
        return psutil.Process(self.process.pid).children()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.log, f"{text!r} is printed", timeout_s=90)


def is_left(process: psutil.Process) -> bool:
    """Whether it has not ended; nobody may be there to wait for a child whose parent was killed."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_job_prints_a_curl_that_works_and_one_signal_ends_it_whole(
    job: Job, number: signal.Signals
) -> None:
    job.wait_for("curl -N")
    (line,) = re.findall(r"^ *(curl -N .*)$", job.log, re.MULTILINE)
    body = json.loads(shlex.split(line)[-1]) | {"max_new_tokens": 4}
    arguments = [*shlex.split(line)[:-1], json.dumps(body)]
    answer = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.endswith("data: [DONE]\n\n")
    children = job.children()
    assert len(job.programs()) == 2
    os.killpg(job.process.pid, number)
    assert job.process.wait(timeout=60) == 0
    assert list(filter(is_left, children)) == []
    saved = newest_step(job.volume / "toy")
    assert saved is not None
    assert f"interrupted; it is saved at step {saved.number}" in job.log
    assert "draining" in job.log
    assert "closed file" not in job.log
    assert job.log.endswith("run | stopped\n"), "a line of the service came after the end"


def test_a_mac_trains_and_serves_through_pytorch(recipe: Path, tmp_path: Path) -> None:
    """Without what only Linux and glibc have: affinity, scheduling policies, /proc, malloc_trim."""
    path = f"{WITHOUT_LINUX}:{ROOT}"
    with Job(recipe, tmp_path, PYTHONPATH=path, HOME="/proc/no-home") as job:
        job.wait_for("curl -N")
        reason = "PyTorch serves, without native kernels: there are kernels for neon of aarch64"
        assert reason in job.log
        assert re.search(r"serving toy@\d+ \(\w+, torch, on cpu", job.log)
        with urllib.request.urlopen(f"http://127.0.0.1:{job.port}/version") as response:
            assert json.load(response)["backend"] == "torch"
        os.killpg(job.process.pid, signal.SIGINT)
        assert job.process.wait(timeout=60) == 0
        assert "Traceback" not in job.log


def test_a_child_that_fails_stops_the_other_and_gives_its_status(job: Job) -> None:
    job.wait_for("curl -N")
    children = job.children()
    (service,) = [child for child in job.programs() if "service" in child.cmdline()]
    service.kill()
    assert job.process.wait(timeout=60) == 128 + signal.SIGKILL
    assert list(filter(is_left, children)) == []
    assert newest_step(job.volume / "toy") is not None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children")
def test_a_job_that_is_killed_leaves_nothing_behind(job: Job) -> None:
    job.wait_for("curl -N")
    children = job.children()
    assert len(job.programs()) == 2
    job.process.kill()
    wait_until(lambda: not any(map(is_left, children)), "all have ended", timeout_s=60)
    assert newest_step(job.volume / "toy") is not None


def test_a_recipe_that_does_not_exist_ends_the_job_with_status_2(tmp_path: Path) -> None:
    with Job(Path("tinny"), tmp_path) as job:
        assert job.process.wait(timeout=60) == 2
        assert "tiny" in job.log

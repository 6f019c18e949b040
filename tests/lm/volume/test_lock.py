import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lm.volume import RunLock, VolumeError, WriterBusy
from lm.volume.lock import LOCK_FILE

OTHER_WRITER = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("refused", flush=True)
else:
    print("holds it", flush=True)
    sys.stdin.read()
"""
"""The protocol of the lock without a line of ours: ``flock`` on the run's file."""


@contextmanager
def other_writer(run_dir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that tries for the lock, and what it says."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", OTHER_WRITER, str(run_dir / LOCK_FILE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def test_the_lock_makes_the_runs_directory(tmp_path: Path) -> None:
    run_dir = tmp_path / "volume" / "run"
    with RunLock(run_dir):
        assert [path.name for path in run_dir.iterdir()] == [LOCK_FILE]


def test_directories_it_makes_are_open_to_every_user_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with RunLock(tmp_path / "volume" / "run"):
            pass
    finally:
        os.umask(before)
    for made in (tmp_path / "volume", tmp_path / "volume" / "run"):
        assert stat.S_IMODE(made.stat().st_mode) == 0o755


def test_directories_that_were_there_keep_their_mode(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    run_dir.chmod(0o2775)
    with RunLock(run_dir):
        assert stat.S_IMODE(run_dir.stat().st_mode) == 0o2775


def test_a_second_process_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    with (
        other_writer(tmp_path) as (_, said),
        pytest.raises(WriterBusy, match=f"{tmp_path}: another trainer is writing") as raised,
        RunLock(tmp_path),
    ):
        pytest.fail("two writers at once")
    assert said == "holds it"
    assert "--run" in str(raised.value)
    assert isinstance(raised.value, VolumeError)
    assert raised.value.reason == "locked"


def test_while_we_hold_it_another_process_is_refused(tmp_path: Path) -> None:
    with RunLock(tmp_path), other_writer(tmp_path) as (_, said):
        assert said == "refused"


def test_a_second_lock_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(WriterBusy), RunLock(tmp_path):
        pytest.fail("two writers at once")


def test_a_refusal_leaves_no_descriptor_open(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(5):
            with pytest.raises(WriterBusy):
                RunLock(tmp_path).__enter__()
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_the_lock_is_free_again_after_the_block_even_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), RunLock(tmp_path):
        raise RuntimeError
    with RunLock(tmp_path):
        pass
    with other_writer(tmp_path) as (_, said):
        assert said == "holds it"


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    with other_writer(tmp_path) as (process, said):
        assert said == "holds it"
        process.send_signal(signal.SIGKILL)
        process.wait()
        with RunLock(tmp_path):
            pass


def test_a_leftover_lock_file_locks_nobody_out(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("12345")
    with RunLock(tmp_path), pytest.raises(WriterBusy), RunLock(tmp_path):
        pass


OUR_WRITER = """
import sys, pathlib
from lm.volume import RunLock, WriterBusy
try:
    with RunLock(pathlib.Path(sys.argv[1])):
        print("holds it", flush=True)
        sys.stdin.read()
except WriterBusy:
    print("refused", flush=True)
"""


@contextmanager
def our_writer(run_dir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process with ``RunLock``, and what it says."""
    with subprocess.Popen(
        [sys.executable, "-c", OUR_WRITER, str(run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_who_removes_the_lock_file_lets_no_second_writer_in(tmp_path: Path, how: str) -> None:
    with our_writer(tmp_path) as (_, first):
        assert first == "holds it"
        (tmp_path / LOCK_FILE).unlink()
        if how == "replaced":
            (tmp_path / LOCK_FILE).touch()
        with our_writer(tmp_path) as (_, second):
            assert second == "refused"
        with pytest.raises(WriterBusy), RunLock(tmp_path):
            pytest.fail("two writers at once")
    with our_writer(tmp_path) as (_, third):
        assert third == "holds it"


def test_a_file_removed_between_opening_and_locking_is_not_taken_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes would each hold a file of that name, one of which nobody finds."""
    taken: list[int] = []
    flock = fcntl.flock

    def remove_first(descriptor: int, operation: int) -> None:
        if not taken:
            (tmp_path / LOCK_FILE).unlink()
        taken.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with RunLock(tmp_path), other_writer(tmp_path) as (_, said):
        assert said == "refused"
    assert len(taken) == 3, "the file, the file again, and the directory"


def test_a_file_system_that_locks_no_directories_has_the_files_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def refuse_directories(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "as NFS says it")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", refuse_directories)
    with RunLock(tmp_path), pytest.raises(WriterBusy), RunLock(tmp_path):
        pytest.fail("two writers at once")


def test_locks_of_two_runs_do_not_meet(tmp_path: Path) -> None:
    with RunLock(tmp_path / "a"), RunLock(tmp_path / "b"):
        assert (tmp_path / "a" / LOCK_FILE).exists()
        assert (tmp_path / "b" / LOCK_FILE).exists()


def test_a_child_that_was_started_while_we_held_it_does_not_keep_it(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with RunLock(tmp_path), pytest.raises(WriterBusy), RunLock(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()

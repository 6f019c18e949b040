import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toys import publish_toy, toy_details, toy_training_state
from toys.damage import HIDDEN, VISIBLE, Damage, edit_manifest

from lm.volume import (
    MANIFEST_FILE,
    Step,
    StepUnreadable,
    UnknownFormat,
    list_steps,
    newest_step,
    publish,
    verify,
)
from lm.volume.publish import PHASES, TextFile, Writer

NOBODY = 65534
FILES = {
    "config.json",
    "generation_config.json",
    "manifest.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
DAMAGED = {name: case for name, case in (VISIBLE | HIDDEN).items() if case[1] is not UnknownFormat}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run = tmp_path / "volume" / "run"
    run.mkdir(parents=True)
    return run


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def publish_text(run_dir: Path, step: int, **options: Callable[[str], object]) -> Step:
    return publish(run_dir, step, {"a.txt": TextFile("a")}, toy_details(step), **options)


def failing(error: BaseException) -> Writer:
    """A writer that gets half of its file done."""

    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    return write


def test_a_published_step_is_listed_verified_and_complete(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "run", 500)
    assert step.path == tmp_path / "run" / "step-00000500"
    assert step.name == "run@500"
    assert names(step.path) == FILES
    assert list_steps(tmp_path / "run") == [step]
    assert newest_step(tmp_path / "run") == step
    verify(step)


def test_the_manifest_holds_the_size_and_hash_of_every_other_file(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "run", 1, extra_files=toy_training_state())
    assert step.manifest.files.keys() == names(step.path) - {MANIFEST_FILE}
    for name, entry in step.manifest.files.items():
        content = (step.path / name).read_bytes()
        assert entry.size == len(content)
        assert entry.sha256 == hashlib.sha256(content).hexdigest()


def test_the_manifest_says_what_the_writer_knew(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "run", 7, recipe_hash="abc", flags=("memorising",))
    written = json.loads((step.path / MANIFEST_FILE).read_text())
    assert written["run"] == "run"
    assert written["step"] == 7
    assert written["details"]["recipe_hash"] == "abc"
    assert step.manifest.details == toy_details(7, recipe_hash="abc", flags=("memorising",))
    assert written["created_at"].endswith("+00:00")


def test_the_phases_come_in_order(run_dir: Path) -> None:
    phases: list[str] = []
    publish_text(run_dir, 1, on_phase=phases.append)
    assert tuple(phases) == PHASES


def test_nothing_is_visible_before_the_rename_and_the_manifest_is_written_last(
    run_dir: Path,
) -> None:
    seen: dict[str, tuple[int, set[str]]] = {}

    def look(phase: str) -> None:
        hidden = next(run_dir.glob(".tmp-*"), None)
        inside = names(hidden) if hidden else set()
        seen[phase] = (len(list_steps(run_dir)), inside)

    publish_text(run_dir, 1, on_phase=look)
    assert seen == {
        "begin": (0, set()),
        "files": (0, {"a.txt"}),
        "manifest": (0, {"a.txt", MANIFEST_FILE}),
        "synced": (0, {"a.txt", MANIFEST_FILE}),
        "renamed": (1, set()),
        "done": (1, set()),
    }


def test_every_file_is_on_disk_before_the_rename_and_the_rename_before_the_end(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noting_fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    publish_text(run_dir, 1, on_phase=lambda phase: synced.append(f"<{phase}>"))
    tmp = f".tmp-step-00000001-{os.getpid()}"
    assert synced == [
        "<begin>",
        "a.txt",
        "<files>",
        MANIFEST_FILE,
        "<manifest>",
        tmp,
        "<synced>",
        "<renamed>",
        "run",
        "<done>",
    ]


@pytest.mark.usefixtures("strict_umask")
def test_a_strict_umask_keeps_nobody_out(tmp_path: Path) -> None:
    step = publish_toy(tmp_path / "volume", "run", 1, extra_files=toy_training_state())
    for directory in (tmp_path / "volume", tmp_path / "volume" / "run", step.path):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755, directory
    for file in step.path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o644, file


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.usefixtures("strict_umask")
def test_another_user_can_read_every_file() -> None:
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        if subprocess.run(["test", "-x", parent], user=NOBODY, group=NOBODY).returncode:
            pytest.skip(f"another user cannot even reach {parent}")
        step = publish_toy(Path(parent) / "volume", "run", 1)
        seen = subprocess.run(
            ["sha256sum", *sorted(str(step.path / name) for name in step.manifest.files)],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
            text=True,
        )
        assert seen.stderr == ""
        hashes = [line.split()[0] for line in seen.stdout.splitlines()]
        assert hashes == [entry.sha256 for _, entry in sorted(step.manifest.files.items())]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError()]
)
def test_a_writer_that_fails_leaves_nothing(run_dir: Path, error: BaseException) -> None:
    first = publish_text(run_dir, 1)
    with pytest.raises(type(error)):
        publish(run_dir, 2, {"a": TextFile("a"), "b": failing(error)}, toy_details(2))
    assert names(run_dir) == {first.path.name}
    assert list_steps(run_dir) == [first]
    assert publish_text(run_dir, 2).number == 2


@pytest.mark.parametrize("phase", PHASES[:4])
def test_an_error_at_any_moment_before_the_rename_leaves_nothing(run_dir: Path, phase: str) -> None:
    def fail(now: str) -> None:
        if now == phase:
            raise OSError(errno.EIO, "disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        publish_text(run_dir, 1, on_phase=fail)
    assert names(run_dir) == set()


@pytest.mark.parametrize(
    ("room", "in_the_middle_of"), [("600k", "model.safetensors"), ("1m", "tokenizer.json")]
)
def test_a_full_disk_is_an_os_error_and_leaves_the_older_steps(
    tmp_path: Path, room: str, in_the_middle_of: str
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(small)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root, and not in every container, can mount a small disk")
    try:
        first = publish_toy(small, "run", 1)
        if in_the_middle_of != "model.safetensors":
            publish_toy(small, "run", 2)
        before = names(small / "run")
        with pytest.raises(OSError, match="No space left"):
            publish_toy(small, "run", 3)
        assert names(small / "run") == before
        verify(first)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_run_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        publish_text(tmp_path / "nowhere", 1)
    assert names(tmp_path) == set()


def test_publishing_over_a_step_that_verifies_does_nothing(tmp_path: Path) -> None:
    first = publish_toy(tmp_path, "run", 1, seed=1)
    times = {path.name: path.stat().st_mtime_ns for path in first.path.iterdir()}
    called: list[str] = []
    again = publish(
        tmp_path / "run",
        1,
        {"model.safetensors": failing(AssertionError("must not be written"))},
        toy_details(1, recipe_hash="another"),
        on_phase=called.append,
    )
    assert again == first
    assert called == []
    assert {path.name: path.stat().st_mtime_ns for path in first.path.iterdir()} == times


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps to copy: syncing every file of every test's own would take long."""
    volume = tmp_path_factory.mktemp("published")
    for number in (1, 2):
        publish_toy(volume, "run", number, seed=number)
    return volume


@pytest.mark.parametrize("damage", [case[0] for case in DAMAGED.values()], ids=DAMAGED)
def test_publishing_over_a_broken_step_moves_it_aside(
    tmp_path: Path, published: Path, damage: Damage
) -> None:
    volume = shutil.copytree(published, tmp_path / "volume")
    damage(volume / "run" / "step-00000002")
    again = publish_toy(volume, "run", 2, seed=2)
    verify(again)
    assert [step.number for step in list_steps(volume / "run")] == [1, 2]
    assert names(volume / "run") == {
        ".lock",
        ".bad-step-00000002-0",
        "step-00000001",
        "step-00000002",
    }


def test_a_step_of_a_newer_format_is_left_alone(tmp_path: Path, published: Path) -> None:
    volume = shutil.copytree(published, tmp_path / "volume")
    path = volume / "run" / "step-00000002"
    edit_manifest(path, lambda values: values.update(format_version=2))
    before = (path / MANIFEST_FILE).read_bytes()
    with pytest.raises(UnknownFormat):
        publish_toy(volume, "run", 2, seed=2)
    assert (path / MANIFEST_FILE).read_bytes() == before
    assert names(volume / "run") == {".lock", "step-00000001", "step-00000002"}


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("file", [MANIFEST_FILE, "model.safetensors"])
def test_a_step_that_cannot_be_read_just_now_is_left_alone(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch, number: int, file: str
) -> None:
    volume = shutil.copytree(published, tmp_path / "volume")
    os_open = os.open

    def fail(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(f"step-00000002/{file}"):
            raise OSError(number, os.strerror(number))
        return os_open(path, *arguments, **options)

    with monkeypatch.context() as failing:
        failing.setattr(os, "open", fail)
        with pytest.raises(StepUnreadable):
            publish_toy(volume, "run", 2, seed=2)
    assert names(volume / "run") == {".lock", "step-00000001", "step-00000002"}
    assert publish_toy(volume, "run", 2, seed=2).number == 2


def test_what_is_moved_aside_never_replaces_what_was_moved_before(run_dir: Path) -> None:
    for _ in range(3):
        step = publish_text(run_dir, 1)
        (step.path / "a.txt").write_text("broken")
    publish_text(run_dir, 1)
    assert names(run_dir) == {"step-00000001", *(f".bad-step-00000001-{n}" for n in range(3))}


def test_a_leftover_of_the_same_process_number_is_replaced(run_dir: Path) -> None:
    leftover = run_dir / f".tmp-step-00000001-{os.getpid()}"
    leftover.mkdir()
    (leftover / "other.txt").write_text("of a dead writer")
    step = publish_text(run_dir, 1)
    assert names(step.path) == {"a.txt", MANIFEST_FILE}
    assert names(run_dir) == {"step-00000001"}


def test_a_text_file_is_utf8(tmp_path: Path) -> None:
    TextFile("日本\n")(tmp_path / "text")
    assert (tmp_path / "text").read_bytes() == "日本\n".encode()

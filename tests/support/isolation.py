"""What tests may touch: temporary directories, and neither the checkout nor the user's home.

A session has a home directory of its own, caches included. One thing is shared with the user: the
compiled native kernels, which lie there under a name made of their sources.
"""

import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = Path("nestling", "native")
USER_HOME = "TESTS_USER_HOME"
"""Variable with the user's own home, for what is installed once and kept."""
MADE_BY_TOOLS = {"__pycache__", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
BEFORE = pytest.StashKey[set[str]]()
MADE = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Change the environment before anything reads it; workers have their parent's."""
    # Toys are too small for more, and two workers' threads would wait for each other.
    os.environ["OMP_NUM_THREADS"] = "1"
    if is_worker(config):
        return
    config.stash[BEFORE] = beside_sources()
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    os.environ[USER_HOME] = os.path.expanduser("~")  # noqa: PTH111  raises nothing without a home
    home = tempfile.mkdtemp(prefix="nestling-home-")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    for name in [name for name in os.environ if name.startswith("XDG_")]:
        del os.environ[name]
    os.environ["HOME"] = home
    share_kernels(user_cache / KERNELS, Path(home, ".cache") / KERNELS)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail under continuous integration if something was left in the checkout.

    On other machines somebody may be working in it meanwhile: what is new is named, no more.
    """
    if is_worker(session.config):
        return
    made = sorted(beside_sources() - session.config.stash[BEFORE])
    session.config.stash[MADE] = made
    if made and os.environ.get("CI") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_keyboard_interrupt() -> None:
    """Services of interrupted tests go on for a while and would log into files that are closed."""
    logging.raiseExceptions = False


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what is new in the checkout."""
    if made := terminalreporter.config.stash.get(MADE, []):
        terminalreporter.section("new in the checkout since the tests began")
        terminalreporter.write_line("\n".join(made))


def is_worker(config: pytest.Config) -> bool:
    """Whether another process of pytest gave this one its tests."""
    return hasattr(config, "workerinput")


def beside_sources() -> set[str]:
    """What lies in the checkout and is not under version control, but for the tools' caches."""
    command = ["git", "status", "--porcelain", "--ignored"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git here, or no repository
        return set()
    paths = {line[3:] for line in listed.stdout.splitlines() if line[:2] in {"??", "!!"}}
    return {path for path in paths if not MADE_BY_TOOLS & {*Path(path).parts}}


def share_kernels(ours: Path, theirs: Path) -> None:
    """Let ``theirs`` lead to ``ours``, where ``make install`` compiles; not without a home."""
    try:
        ours.mkdir(parents=True, exist_ok=True, mode=0o700)
        theirs.parent.mkdir(parents=True, mode=0o700)
        theirs.symlink_to(ours)
    except OSError:
        theirs.parent.mkdir(parents=True, exist_ok=True, mode=0o700)

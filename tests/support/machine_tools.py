"""What some tests need of the machine: programs that not every one has, a free port."""

import os
import re
import shutil
import socket
import subprocess
import sysconfig
import venv
from pathlib import Path
from typing import NoReturn

import pytest
from isolation import USER_HOME


def require_tool(name: str, *, package: str) -> str:
    """Path of a program; skips without it, or fails where ``REQUIRE_TOOLS`` is set.

    ``package`` is the Debian package that holds it.
    """
    path = shutil.which(name)
    if path is None:
        give_up(f"{name} is not installed: apt-get install {package}")
    return path


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_environment(program: str, *requirements: str) -> Path:
    """A program of Python packages that our own environment is not to have.

    They are installed once, under the user's cache, into an environment that sees ours too,
    so that what we have is not fetched again. Skips where that fails, or fails where
    ``REQUIRE_TOOLS`` is set, with pip's last line.
    """
    home = os.environ[USER_HOME]
    name = "-".join(re.findall(r"[\w.]+", " ".join(requirements)))
    directory = Path(home, ".cache", "nestling", "clients", name)
    path = directory / "bin" / program
    is_whole = directory / "whole"
    if not is_whole.exists():
        venv.create(directory, with_pip=True, clear=True)
        (ours,) = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        theirs = sysconfig.get_path("purelib", vars={"base": str(directory)})
        (Path(theirs) / "nestling.pth").write_text(ours)
        pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        done = subprocess.run(
            [*pip, *requirements], capture_output=True, text=True, env=os.environ | {"HOME": home}
        )
        if done.returncode:
            give_up(f"{program} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        is_whole.touch()
    return path


def give_up(reason: str) -> NoReturn:
    """Skip, or fail where ``REQUIRE_TOOLS`` is set."""
    if os.environ.get("REQUIRE_TOOLS"):
        pytest.fail(reason)
    pytest.skip(reason)

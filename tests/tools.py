"""What some tests need of the machine: programs that not every one has, a free port."""

import os
import shutil
import socket

import pytest


def require_tool(name: str, *, package: str) -> str:
    """Path of a program; skips without it, or fails where ``REQUIRE_TOOLS`` is set.

    ``package`` is the Debian package that holds it.
    """
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed: apt-get install {package}"
        if os.environ.get("REQUIRE_TOOLS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""``python faulty_service.py CONTROL ARGUMENTS…``: the service over a disk and a clock that fail.

What fails is said by files in the directory CONTROL: while ``fail`` is there, weights cannot be
opened; while ``hang`` is there, manifests' opening does not end; while ``hold`` is there, that of
weights does not end, and ``held`` appears; ``clock`` has the seconds by which the wall clock is
wrong.
"""

import errno
import logging
import os
import sys
import time
from pathlib import Path
from typing import BinaryIO

from lm.volume import open_plain
from service.http.app import create_app
from service.http.server import serve
from service.http.sockets import listen
from service.settings.command_line import read_settings

control = Path(sys.argv[1])
right_time = time.time


def open_with_faults(path: Path) -> BinaryIO:
    """Open a file, or fail as a disk would."""
    while path.name == "manifest.json" and (control / "hang").exists():
        time.sleep(0.005)
    if path.name == "model.safetensors":
        if (control / "fail").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        while (control / "hold").exists():
            (control / "held").touch()
            time.sleep(0.005)
    return open_plain(path)


def wrong_time() -> float:
    """The wall clock, as wrong as the test wants it."""
    try:
        return right_time() + float((control / "clock").read_text())
    except (FileNotFoundError, ValueError):
        return right_time()


time.time = wrong_time
settings = read_settings(sys.argv[2:])
logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
serve(create_app(settings, open_with_faults), settings, listen(settings.host, settings.port))

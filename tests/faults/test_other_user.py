"""The volume belongs to another user and cannot be written: it is read all the same."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from toys import publish_toy

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "support" / "serving" / "as_nobody.py"


def entries(volume: Path) -> dict[str, tuple[int, int]]:
    """Every file and directory, with mode and modification time."""
    return {
        str(path.relative_to(volume)): (path.stat().st_mode, path.stat().st_mtime_ns)
        for path in volume.rglob("*")
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_volume_of_another_user_is_read_and_left_as_it_is() -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own directories are root's alone
        Path(place).chmod(0o755)
        volume = Path(place) / "volume"
        old_umask = os.umask(0o077)
        try:
            publish_toy(volume, "first", 1)
            publish_toy(volume, "second", 2)
        finally:
            os.umask(old_umask)
        for path in volume.rglob("*"):
            path.chmod(path.stat().st_mode & ~stat.S_IWUSR)
        before = entries(volume)
        looking = subprocess.run(
            [sys.executable, str(PROGRAM), str(volume)],
            stdout=subprocess.PIPE,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])},
            text=True,
            check=True,
            timeout=240,
        )
        assert looking.stdout == "['second@2'] []\n"
        assert entries(volume) == before

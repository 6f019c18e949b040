"""The C++ under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.

``strain.cpp`` is compiled together with the kernels, for each instruction set of this processor.
That the sanitizers see something is tested as well: a mistake planted in a copy is found.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from machine_tools import give_up, require_tool
from serving.native import ISAS

from service.models.kernels.compiler import COMMON_FLAGS, SOURCES
from service.models.kernels.processor import INSTRUCTION_SETS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
STRAIN = Path(__file__).with_name("strain.cpp")
SANITIZERS = ("address", "undefined", "thread")
FLAGS = (
    "-g",
    "-O1",
    "-fno-omit-frame-pointer",
    "-fno-sanitize-recover=all",
    "-D_GLIBCXX_ASSERTIONS",
)
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}
TIMEOUT_S = 600


def build(sanitizer: str, isa: str, sources: Path, directory: Path) -> Path:
    """The program; skips without a compiler or without the sanitizer's runtime."""
    compiler = require_tool("g++", package="g++")
    flags = [f for f in COMMON_FLAGS if f not in ("-shared", "-O3")]
    (chosen,) = (one for one in INSTRUCTION_SETS if one.name == isa)
    program = directory / f"strain-{sanitizer}-{isa}"
    command = [compiler, *flags, *chosen.compiler_flags, *FLAGS, f"-fsanitize={sanitizer}"]
    done = subprocess.run(
        [
            *command,
            "-Werror",
            f"-I{sources}",
            str(STRAIN),
            str(sources / "step.cpp"),
            "-o",
            str(program),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find" in done.stderr and "san" in done.stderr:
        give_up(f"the runtime of -fsanitize={sanitizer} is not installed: it comes with g++")
    assert done.returncode == 0, done.stderr[-3000:]
    return program


def strain(program: Path) -> subprocess.CompletedProcess[str]:
    """Run it without address randomization, which ThreadSanitizer may not bear (``setarch``)."""
    setarch = shutil.which("setarch")
    fixed = [] if setarch is None else [setarch, "--addr-no-randomize"]
    return subprocess.run(
        [*fixed, str(program)],
        env=os.environ | OPTIONS,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_kernels_are_clean(sanitizer: str, isa: str, tmp_path: Path) -> None:
    if isa == "none":
        pytest.skip("there are no kernels for this processor")
    done = strain(build(sanitizer, isa, SOURCES, tmp_path))
    assert (done.returncode, done.stdout) == (0, "strained\n"), done.stderr[:6000]


PLANTED = {
    "address": (
        "packing.hpp",
        "rows.inputs, output % kPanel,",
        "rows.inputs + 1, output % kPanel,",
        "AddressSanitizer: heap-buffer-overflow",
    ),
    "undefined": (
        "pool.hpp",
        "const int piece = count /",
        "const int piece = (count + 2147483647) /",
        "signed integer overflow",
    ),
    "thread": (
        "pool.hpp",
        "value.load(std::memory_order_acquire) != old",
        "value.load(std::memory_order_relaxed) != old",
        "ThreadSanitizer: data race",
    ),
}
"""For each sanitizer a file, what stands there, a mistake instead, and what is said of it."""


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_a_mistake_is_found(sanitizer: str, tmp_path: Path) -> None:
    if ISAS[0] == "none":
        pytest.skip("there are no kernels for this processor")
    name, right, wrong, said = PLANTED[sanitizer]
    sources = tmp_path / "native"
    shutil.copytree(SOURCES, sources, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    text = (sources / name).read_text("utf-8")
    assert text.count(right) == 1
    (sources / name).write_text(text.replace(right, wrong), "utf-8")
    done = strain(build(sanitizer, ISAS[0], sources, tmp_path))
    assert done.returncode != 0
    assert said in done.stderr

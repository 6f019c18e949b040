"""Where a step's threads run: a core each where there are as many cores, else anywhere."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from serving.native import native_runner, open_native

from service.engine.native.library import Library
from service.models.kernels.native import open_library

CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
LONGEST_WAIT_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def _kernels() -> None:
    open_native()
    if len(CORES) < 2:
        pytest.skip("one core: there is nothing to choose")


def open_with_workers(threads: int) -> tuple[Library, list[set[int]]]:
    """A library of its own, and the cores that each of its threads may run on."""
    before = thread_ids()
    library = open_library(threads=threads)
    workers = thread_ids() - before
    assert len(workers) == threads - 1
    if threads == len(CORES):
        wait_until(lambda: all(len(os.sched_getaffinity(worker)) == 1 for worker in workers))
    return library, [os.sched_getaffinity(worker) for worker in sorted(workers)]


def thread_ids() -> set[int]:
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def cores_while_computing(library: Library, *, is_idle_policy: bool = False) -> set[frozenset[int]]:
    """The sets of cores that a thread was seen to be allowed while it computes steps."""
    runner = native_runner(library, "int8")
    seen: set[frozenset[int]] = set()
    afterwards: list[set[int]] = []
    thread_id: list[int] = []
    is_over = threading.Event()

    def compute() -> None:
        if is_idle_policy:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        thread_id.append(threading.get_native_id())
        while not is_over.is_set():
            runner.score(range(64))
        afterwards.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=compute)
    thread.start()
    wait_until(lambda: bool(thread_id))
    for _ in range(2000):
        seen.add(frozenset(os.sched_getaffinity(thread_id[0])))
        time.sleep(0.0001)
    is_over.set()
    thread.join()
    assert afterwards == [CORES], "it is as free as before"
    return seen


def test_as_many_threads_as_cores_keep_to_a_core_each() -> None:
    library, workers = open_with_workers(len(CORES))
    first, *others = sorted(CORES)
    assert workers == [{core} for core in others]
    assert frozenset({first}) in cores_while_computing(library)


@pytest.mark.parametrize("threads", [len(CORES) - 1, len(CORES) + 1])
def test_any_other_number_of_threads_runs_anywhere(threads: int) -> None:
    library, workers = open_with_workers(threads)
    assert workers == [CORES] * (threads - 1)
    assert cores_while_computing(library) == {frozenset(CORES)}


def test_a_thread_of_the_idle_policy_is_not_kept_to_a_core() -> None:
    library, _ = open_with_workers(len(CORES))
    assert cores_while_computing(library, is_idle_policy=True) == {frozenset(CORES)}


def test_a_candidate_computes_beside_the_threads_and_to_the_same_bits() -> None:
    library = open_native(threads=2)
    serving, candidate = native_runner(library, "int8"), native_runner(library, "int8")
    text = [number % 300 for number in range(40)]
    expected = serving.score(text)
    candidate.keep_aside()
    alone = library.alone()
    assert alone.value != library.pool.value
    assert torch.equal(candidate.score(text), expected)
    assert candidate._pool is alone
    candidate.serve()
    assert candidate._pool is None
    assert torch.equal(candidate.score(text), expected)

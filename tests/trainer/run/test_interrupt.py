import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from trainer.run.interrupt import Interrupt

PROGRAM = """
import signal, sys, time
from trainer.run.interrupt import Interrupt

interrupt = Interrupt(patience_s={patience})

def poll():
    while not interrupt.requested:
        time.sleep(0.01)

{prepare}
with interrupt.listen():
    print("ready", flush=True)
    {body}
print("left", flush=True)
"""


Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Start a process that listens to signals and has begun its body."""
    with contextlib.ExitStack() as stack:

        def start(body: str, *, prepare: str = "", patience: float = 30.0) -> subprocess.Popen[str]:
            program = PROGRAM.format(body=body, prepare=prepare, patience=patience)
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", program],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            return process

        yield start


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


SAVES = "interrupt.rescue = lambda: print('rescued', flush=True)"
DEAF = "time.sleep(60)"  # as a long backward pass: no bytecode runs, no Python handler either


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_loop_that_polls_leaves_by_itself_with_status_0(
    number: signal.Signals, launch: Launch
) -> None:
    process = launch("poll(); assert interrupt.claim()", prepare=SAVES)
    process.send_signal(number)
    assert outcome(process) == (0, "left\n", "")


ANNOUNCING = ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGPWR"]


@pytest.mark.parametrize("name", [name for name in ANNOUNCING if hasattr(signal, name)])
def test_what_else_announces_an_end_saves_too(name: str, launch: Launch) -> None:
    process = launch("poll(); assert interrupt.claim()", prepare=SAVES)
    process.send_signal(getattr(signal, name))
    assert outcome(process) == (0, "left\n", "")


def test_what_means_nothing_and_a_hangup_under_nohup_are_nothing(launch: Launch) -> None:
    prepare = f"{SAVES}; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    process = launch("poll(); assert interrupt.claim()", prepare=prepare)
    for name in ("SIGHUP", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGRTMIN"):
        if hasattr(signal, name):
            process.send_signal(getattr(signal, name))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    process.send_signal(signal.SIGTERM)
    assert outcome(process) == (0, "left\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_loop_that_is_deaf_is_saved_from_another_thread(
    number: signal.Signals, launch: Launch
) -> None:
    process = launch(DEAF, prepare=SAVES, patience=0.05)
    process.send_signal(number)
    assert outcome(process) == (0, "rescued\n", "")


def test_a_process_with_nothing_to_save_leaves_at_once(launch: Launch) -> None:
    process = launch(DEAF)
    process.send_signal(signal.SIGTERM)
    assert outcome(process) == (0, "", "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_leaves_at_once_with_its_own_status(
    number: signal.Signals, status: int, launch: Launch
) -> None:
    process = launch(
        "poll(); interrupt.claim(); print('saving', flush=True); time.sleep(60)", prepare=SAVES
    )
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    process.send_signal(number)
    assert outcome(process) == (status, "", "")


def test_a_rescue_that_fails_leaves_with_status_1_and_its_reason(launch: Launch) -> None:
    process = launch(DEAF, prepare="interrupt.rescue = lambda: 1 / 0", patience=0.05)
    process.send_signal(signal.SIGTERM)
    status, _, errors = outcome(process)
    assert status == 1
    assert "ZeroDivisionError" in errors


def test_without_a_signal_nothing_happens_and_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    interrupt = Interrupt(leave=lambda status: pytest.fail(f"left with {status}"))
    with interrupt.listen():
        assert not interrupt.requested
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert not interrupt.requested


def test_the_saving_can_be_claimed_once() -> None:
    interrupt = Interrupt()
    claims: list[bool] = []
    threads = [threading.Thread(target=lambda: claims.append(interrupt.claim())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claims) == [False] * 7 + [True]

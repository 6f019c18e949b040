"""What each signal does to the service.

- **It drains** (``server``): SIGTERM, SIGINT, and what else announces an end: SIGHUP (the terminal
  is gone; under ``nohup``, which ignores it, nothing), SIGPWR, SIGXCPU.
- **SIGUSR1** writes the profile where one is measured, and is a line in the log else.
- **Nothing**: what would end a process that knows nothing of it, and says nothing to this one.
- **As everywhere**: SIGKILL, SIGSTOP and SIGCONT; SIGQUIT and the signals of faults end the process
  at once, with a core where the system writes one.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

ALWAYS_DRAINING = (signal.SIGTERM, signal.SIGINT)


def _there(*names: str) -> tuple[signal.Signals, ...]:
    """Those of these signals that this system has."""
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


def draining() -> tuple[signal.Signals, ...]:
    """Signals that ask for a drain; not those that whoever began this process had it ignore."""
    asked = _there("SIGHUP", "SIGPWR", "SIGXCPU")
    heard = (number for number in asked if signal.getsignal(number) is not signal.SIG_IGN)
    return (*ALWAYS_DRAINING, *heard)


def meaningless() -> tuple[int, ...]:
    """Signals that would end the process by default and mean nothing to it."""
    timers = ("SIGALRM", "SIGVTALRM", "SIGPROF")
    named = _there("SIGUSR1", "SIGUSR2", *timers, "SIGIO", "SIGSTKFLT", "SIGPIPE")
    first, last = getattr(signal, "SIGRTMIN", 0), getattr(signal, "SIGRTMAX", -1)
    return (*named, *range(first, last + 1))


def listen_before_all() -> None:
    """For the program's first line: until anybody else listens, a signal ends it with 0 at once."""
    for number in draining():
        signal.signal(number, lambda *_: os._exit(0))
    for other in meaningless():
        if signal.getsignal(other) is signal.SIG_DFL:
            signal.signal(other, signal.SIG_IGN)


@contextlib.contextmanager
def ending_quietly() -> Iterator[None]:
    """While this lasts, a signal raises ``SystemExit`` with 0 in the main thread."""
    with handled(lambda *_: sys.exit(0)):
        yield


@contextlib.contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """What asks for a drain goes to a handler while this lasts, and then where it went before."""
    with kept():
        for number in draining():
            signal.signal(number, handler)
        yield


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Whoever takes signals over while this lasts, they go where they went before at its end."""
    numbers = (*draining(), signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # else not set by Python
                signal.signal(number, handler)


@contextlib.contextmanager
def as_bytes(*numbers: signal.Signals) -> Iterator[int]:
    """A file descriptor that gives each signal's number; none of them does anything else."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    before = signal.set_wakeup_fd(write_end)
    try:
        yield read_end
    finally:
        signal.set_wakeup_fd(before)
        os.close(read_end)
        os.close(write_end)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Signals that come while this lasts are heard at its end; a child inherits that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def as_in_a_new_process() -> None:
    """In a child that was just forked: SIGTERM ends it, and what is the parent's does nothing."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in draining():
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until there is a profile to write

"""SIGINT, SIGTERM and the like: save the last completed step, then leave with status 0.

So do SIGHUP (not under ``nohup``), SIGPWR, SIGXCPU, SIGUSR1 and SIGUSR2: batch systems announce the
end of a job's time by one of them. Timers' and real-time signals are not for the trainer, and do
nothing.

The loop polls ``requested`` between micro-batches, evaluation batches and sampled tokens, claims
the saving for itself and stops. But Python runs signal handlers between two bytecodes of the main
thread, which one long backward pass can put off by a minute. So a thread of its own reads the
descriptor that the C handler writes to, and if the loop has not come round within ``patience_s``
that thread claims the saving and does it (weights change only inside an optimizer step, which
holds a lock). A second signal leaves at once with 128 + its number.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from lm.machine.threads import Roots

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGPWR", "SIGXCPU", "SIGUSR1", "SIGUSR2")
MEANINGLESS = ("SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGSTKFLT")
PATIENCE_S = 3.0


class Interrupt:
    """Whether the process was asked to stop, and who saves then."""

    def __init__(
        self,
        *,
        patience_s: float = PATIENCE_S,
        leave: Callable[[int], object] = os._exit,
        roots: Roots | None = None,
    ) -> None:
        """``roots`` are those of all of the program's threads."""
        self.roots = roots or Roots()
        self.patience_s = patience_s
        self.rescue: Callable[[], None] | None = None
        """Saves the last completed step from any thread; ``None`` while there is nothing yet."""
        self._leave = leave
        self._requested = threading.Event()
        self._claimed = threading.Event()
        self._claim_lock = threading.Lock()

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self._requested.is_set()

    def claim(self) -> bool:
        """Take over the saving; false if another thread has it already, once and for all."""
        with self._claim_lock:
            if self._claimed.is_set():
                return False
            self._claimed.set()
            return True

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Handle the signals while the context lasts; for the main thread alone."""
        receiver, sender = socket.socketpair()
        os.set_blocking(sender.fileno(), False)
        watcher = self.roots.thread("signals", lambda: self._watch(receiver), again=True)
        # Without a Python handler the C handler would not write to the descriptor.
        handlers: dict[int, Any] = {
            number: signal.signal(number, lambda *_: None) for number in _asking()
        }
        handlers |= {number: signal.signal(number, signal.SIG_IGN) for number in _meaningless()}
        descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        watcher.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self.claim()
            watcher.leave()
            sender.close()
            watcher.join()
            receiver.close()

    def _watch(self, receiver: socket.socket) -> None:
        """Read signal numbers until the sender closes."""
        while received := receiver.recv(16):
            for number in received:
                if self.requested:
                    self._leave(128 + number)
                else:
                    self._requested.set()
                    # It ends the process, whatever it comes to.
                    threading.Thread(target=self._save_if_nobody_does, daemon=True).start()

    def _save_if_nobody_does(self) -> None:
        if self.rescue is not None and self._claimed.wait(self.patience_s):
            return
        if not self.claim():
            return
        status = 1
        try:
            if self.rescue is not None:
                self.rescue()
            status = 0
        finally:
            if status:
                logging.getLogger("trainer").exception("the last step could not be saved")
            self._leave(status)


def _asking() -> list[signal.Signals]:
    """Signals that ask the trainer to leave, but for those that it was begun to ignore."""
    there = (getattr(signal, name) for name in NAMES if hasattr(signal, name))
    always = (signal.SIGINT, signal.SIGTERM)
    return [n for n in there if n in always or signal.getsignal(n) is not signal.SIG_IGN]


def _meaningless() -> list[int]:
    """Signals that would end it by default, and that nobody else has taken."""
    named = [getattr(signal, name) for name in MEANINGLESS if hasattr(signal, name)]
    first, last = getattr(signal, "SIGRTMIN", 0), getattr(signal, "SIGRTMAX", -1)
    return [n for n in (*named, *range(first, last + 1)) if signal.getsignal(n) is signal.SIG_DFL]

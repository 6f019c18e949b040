"""``nestling run``: a trainer and a service on one volume, as one foreground job.

Starts both, says when and how the model can be asked, and stops both at Ctrl-C: the trainer
saves, the service drains, and nothing is left running. Each child gets every signal once, from
here alone: they run outside the terminal's process group.
"""

import argparse
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

CLEAR_LINE = "\r\033[2K"
"""So that a line does not end up inside the trainer's progress bar."""

READY_POLL_S = 0.25
LAST_LINES_S = 3.0
"""For threads that print, at the end: a pipe stays open while a child's own children hold it."""
PR_SET_PDEATHSIG = 1


class Child:
    """One process of the job."""

    def __init__(self, name: str, arguments: list[str], *, relayed: bool) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", name, *arguments],
            start_new_session=True,
            stdout=subprocess.PIPE if relayed else None,
            stderr=subprocess.STDOUT if relayed else None,
            text=True,
            preexec_fn=end_with_parent(),  # noqa: PLW1509  no thread runs yet
        )
        self.relaying: threading.Thread | None = None

    def relay(self) -> None:
        """Print its lines under its name; called when no child is to be forked any more."""
        if self.process.stdout is not None:
            lines = self.process.stdout
            self.relaying = threading.Thread(target=_relay, args=(self.name, lines), daemon=True)
            self.relaying.start()

    def stop(self) -> None:
        """Ask it to save or drain, and to end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)


def main() -> int:
    """Run until a signal or until a child fails; 0 if all that ended, ended well."""
    options = parse()
    # Handlers first: a signal during start-up must not leave a child behind.
    stopping = threading.Event()
    children: list[Child] = []

    def on_signal(number: int, frame: object) -> None:
        del number, frame
        stopping.set()
        for child in children:
            child.stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    volume = ["--volume", str(options.volume)]
    run = ["--run", Path(options.recipe).stem]
    # Two processes that each start a thread a core wait for each other at every matrix product.
    threads = ["--threads", str(max(1, (os.cpu_count() or 1) - 1))]
    serve = [*volume, *run, *threads, "--port", str(options.port), "--log-format", "console"]
    train = [*volume, *run, "--recipe", options.recipe, "--beside-service"]
    say(f"service on port {options.port}, trainer with recipe {options.recipe}; Ctrl-C stops both")
    children.append(Child("service", serve, relayed=True))
    children.append(Child("trainer", train, relayed=False))
    for child in children:
        child.relay()
    if stopping.is_set():  # asked to stop while the children were being started
        on_signal(0, None)
    announcer = threading.Thread(target=announce, args=(options.port, stopping), daemon=True)
    announcer.start()
    status = supervise(children, stopping)
    stopping.set()
    # A thread that prints while Python closes its files ends the job with an error.
    for thread in [announcer, *(child.relaying for child in children)]:
        if thread is not None:
            thread.join(LAST_LINES_S)
    say("stopped")
    return status


def end_with_parent() -> Callable[[], None] | None:
    """What a child does first: have itself sent SIGTERM when this process is gone, even killed.

    Linux alone has that (prctl(2)); elsewhere ``None``.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def begin() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return begin


def supervise(children: list[Child], stopping: threading.Event) -> int:
    """Wait for the children; when one fails, stop the others."""
    running = list(children)
    worst = 0
    while running:
        for child in list(running):
            code = child.process.poll()
            if code is None:
                continue
            running.remove(child)
            if code != 0:
                worst = code if code > 0 else 128 - code
                say(f"{child.name} ended with status {worst}")
            elif not stopping.is_set() and running:
                say(f"{child.name} is done; the service goes on, Ctrl-C stops it")
            if code != 0 and not stopping.is_set():
                stopping.set()
                for other in running:
                    other.stop()
        time.sleep(0.1)
    return worst


def announce(port: int, stopping: threading.Event) -> None:
    """Wait until a checkpoint is served, then print how to ask it."""
    base = f"http://127.0.0.1:{port}"
    while not stopping.wait(READY_POLL_S):
        try:
            with urllib.request.urlopen(f"{base}/readyz", timeout=2) as response:
                name = json.load(response)["checkpoint"]
        except (urllib.error.URLError, OSError):
            continue
        body = json.dumps({"prompt": "First Citizen:\n", "max_new_tokens": 100, "stream": True})
        say(f"{name} is served and improves while it trains; ask it:")
        print(f"\n  curl -N {base}/generate -H 'content-type: application/json' -d '{body}'\n")
        sys.stdout.flush()
        return


def parse() -> argparse.Namespace:
    """Options of the job."""
    parser = argparse.ArgumentParser(
        prog="nestling run",
        description="Train a recipe and serve it while it learns. Ctrl-C stops both: the trainer "
        "saves, the service finishes what it has begun. The same command resumes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--recipe", default="tiny", help="name of a recipe, or a YAML file")
    parser.add_argument("--port", type=int, default=8000, help="port of the service")
    parser.add_argument("--volume", type=Path, default=Path("volume"), help="checkpoints go here")
    return parser.parse_args()


def say(text: str) -> None:
    """Print a line of our own above whatever the trainer draws."""
    clear = CLEAR_LINE if sys.stdout.isatty() else ""
    print(f"{clear}run | {text}", flush=True)


def _relay(name: str, lines: IO[str], write: Callable[[str], object] = sys.stdout.write) -> None:
    """Print a child's lines under its name."""
    clear = CLEAR_LINE if sys.stdout.isatty() else ""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines:
        write(f"{clear}{name} | {line.rstrip()[:width]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

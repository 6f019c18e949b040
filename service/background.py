"""Manners of a thread that works beside one that answers clients."""

import contextlib
import os
import sys
import threading

import torch

NICER_BY = 19
"""Of a core that both want, such a thread takes about a seventieth."""
ENGINE_NICER_BY = 5
LEAST_PRIORITY = 19


def give_way(threads: int) -> None:
    """Lower the calling thread's priority, and bound the threads of its tensor work.

    Both are properties of the thread alone: on Linux each has its own nice value, and PyTorch's
    ``set_num_threads`` binds the thread that calls it and those that start later, so that it is
    set back for the latter, from a thread of its own. Where Linux has its idle policy the thread
    also runs only while nobody else wants its core (``bench.swap``).
    """
    for_others = torch.get_num_threads()
    torch.set_num_threads(threads)
    restore = threading.Thread(target=torch.set_num_threads, args=(for_others,))
    restore.start()
    restore.join()
    lower_priority(NICER_BY)
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):  # a sandbox may not allow it
            thread = threading.get_native_id()
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def let_loop_first() -> None:
    """Lower the priority of the engine's thread a little: tokens leave at once.

    Without it, 32 streams on two cores held the event loop up for over 5 ms in 3 to 6% of its
    wake-ups, with it in 0.2 to 1.1% (``bench.event_loop``).
    """
    lower_priority(ENGINE_NICER_BY)


def lower_priority(by: int) -> None:
    """Add to the nice value of the calling thread; on Linux each has its own."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread) + by
        os.setpriority(os.PRIO_PROCESS, thread, min(nice, LEAST_PRIORITY))

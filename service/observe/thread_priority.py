"""Manners of a thread that works beside one that answers clients."""

import os
import sys
import threading

import torch

NICER_BY = 10
"""Of a core that both want, such a thread takes about a tenth.

Less would be kinder to streams if it never had the interpreter's lock: with it a thread that gets
no time holds up everybody. One that computes in Python beside a busy process on one core delayed
another thread's wake-ups by 0.45 to 0.81 s (p99) at a nice value of 19 and by 0.18 s at 10, and
got a tenth as much done; in Linux's idle class it came to a standstill (two cores of an AMD EPYC
(Zen 4), 2026-11-28, other work beside).
"""
ENGINE_NICER_BY = 5
LEAST_PRIORITY = 19


def give_way(threads: int) -> None:
    """Lower the calling thread's priority, and bound the threads of its tensor work.

    Both are properties of the thread alone: on Linux each has its own nice value, and PyTorch's
    ``set_num_threads`` binds the thread that calls it and those that start later, so that it is
    set back for the latter, from a thread of its own.
    """
    for_others = torch.get_num_threads()
    torch.set_num_threads(threads)
    restore = threading.Thread(target=torch.set_num_threads, args=(for_others,))
    restore.start()
    restore.join()
    lower_priority(NICER_BY)


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

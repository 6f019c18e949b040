"""Manners of a thread that works beside one that answers clients."""

import os
import sys
import threading

import torch

NICER_BY = 19
"""Of a core that both want, such a thread takes about a seventieth."""
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
    if sys.platform == "linux":
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread) + NICER_BY
        os.setpriority(os.PRIO_PROCESS, thread, min(nice, LEAST_PRIORITY))

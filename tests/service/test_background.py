import os
import sys
import threading

import pytest
import torch

from service.background import LEAST_PRIORITY, NICER_BY, give_way


def test_a_thread_that_gives_way_slows_down_nobody_else() -> None:
    threads_before = torch.get_num_threads()
    seen: dict[str, int] = {}

    def work() -> None:
        give_way(1)
        seen["threads"] = torch.get_num_threads()
        if sys.platform == "linux":
            seen["nice"] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def later() -> None:
        seen["later"] = torch.get_num_threads()

    for target in (work, later):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    assert seen["threads"] == 1
    assert seen["later"] == torch.get_num_threads() == threads_before
    if sys.platform != "linux":
        pytest.skip("threads have no nice value of their own")
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert seen["nice"] == min(own + NICER_BY, LEAST_PRIORITY)

import os
import sys
import threading

import pytest
import torch

from service.observe.thread_priority import (
    ENGINE_NICER_BY,
    LEAST_PRIORITY,
    NICER_BY,
    give_way,
    let_loop_first,
)


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


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no nice value of their own")
def test_the_engines_thread_alone_lets_the_loop_first() -> None:
    seen: list[int] = []

    def work() -> None:
        let_loop_first()
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert seen == [min(own + ENGINE_NICER_BY, LEAST_PRIORITY)]

import sys
import threading
from concurrent.futures import Future

import pytest

from service.errors import QueueFull, TooManyRequests
from service.models.load_queue import MOST, MOST_OF_A_PARTY, Orders


def test_orders_are_carried_out_in_turn_and_errors_go_to_those_who_asked() -> None:
    orders = Orders()
    done: list[int] = []
    first = orders.give(lambda: done.append(1))
    failing = orders.give(lambda: 1 // 0)
    last = orders.give(lambda: done.append(2) or "last")
    orders.carry_out()
    assert done == [1, 2]
    assert first.result() is None
    assert last.result() == "last"
    with pytest.raises(ZeroDivisionError):
        failing.result()


def test_what_passes_by_every_handler_is_told_as_an_error_and_is_for_the_root_to_count() -> None:
    orders = Orders()
    ending = orders.give(sys.exit)
    after = orders.give(lambda: "done")
    with pytest.raises(SystemExit):
        orders.carry_out()
    with pytest.raises(RuntimeError, match="SystemExit"):
        ending.result()
    orders.carry_out()
    assert after.result() == "done"


def test_who_asks_after_the_end_is_refused_at_once() -> None:
    orders = Orders()
    orders.refuse(ValueError("gone"))
    with pytest.raises(ValueError, match="gone"):
        orders.give(lambda: None).result(timeout=1)


def test_who_gave_up_waiting_is_not_served() -> None:
    orders = Orders()
    given_up = orders.give(lambda: pytest.fail("nobody wants it"))
    given_up.cancel()
    orders.carry_out()
    assert given_up.cancelled()


def test_an_order_ends_the_wait() -> None:
    orders = Orders()
    waiting = threading.Thread(target=orders.wait, args=(60.0,))
    waiting.start()
    order = orders.give(lambda: 3)
    waiting.join(20)
    assert not waiting.is_alive()
    orders.carry_out()
    assert order.result() == 3


def test_what_is_refused_is_told() -> None:
    orders = Orders()
    order = orders.give(lambda: 3)
    orders.refuse(ValueError("closed"))
    with pytest.raises(ValueError, match="closed"):
        order.result()


class Clock:
    """Stands still but for what a call takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Named:
    """Orders under a clock, and who was served."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.orders = Orders(self.clock)
        self.served: list[str] = []

    def give(self, party: str | None, name: str, seconds: float = 1.0) -> Future[None]:
        def work() -> None:
            self.served.append(name)
            self.clock.now += seconds

        return self.orders.give(work, party)


def test_one_load_stands_between_looks() -> None:
    named = Named()
    for number in range(5):
        named.give(f"p{number}", str(number))
    named.orders.carry_out(0.1)
    assert named.served == ["0"]
    named.orders.wait(60.0)  # at once: there is more to do
    for number in range(5, 9):
        named.give(f"p{number}", str(number), seconds=0.04)
    for _ in range(4):
        named.orders.carry_out(0.1)
    named.served.clear()
    named.orders.carry_out(0.1)
    assert named.served == ["5", "6", "7"], "what takes no time is not done one by one"


def test_parties_take_turns_and_keep_their_own_order() -> None:
    named = Named()
    for number in range(4):
        named.give("old", f"old-{number}")
    named.give("new", "new-0")
    for _ in range(12):
        named.orders.carry_out()
        named.clock.now += 1.0
    assert named.served == ["old-0", "new-0", "old-1", "old-2", "old-3"]


def test_who_had_the_thread_rests_as_long() -> None:
    named = Named()
    named.give("a", "a-0", seconds=3.0)
    named.give("a", "a-1")
    named.orders.carry_out()
    named.clock.now += 2.9
    named.orders.carry_out()
    assert named.served == ["a-0"]
    named.give(None, "own", seconds=0.0)
    named.orders.carry_out()
    assert named.served == ["a-0", "own"], "who runs the service never waits"
    named.clock.now += 0.2
    named.orders.carry_out()
    assert named.served == ["a-0", "own", "a-1"]


def test_the_number_is_limited_for_each_and_for_all() -> None:
    named = Named()
    given = [named.give("a", str(number)) for number in range(MOST_OF_A_PARTY)]
    with pytest.raises(TooManyRequests) as refused:
        named.give("a", "one more")
    assert refused.value.retry_after_s > 0
    given[3].cancel()
    named.give("a", "in its place")
    for number in range(MOST - MOST_OF_A_PARTY):
        named.give(f"p{number}", "other")
    with pytest.raises(QueueFull, match=f"{MOST} requests wait"):
        named.give("late", "late")
    named.give(None, "own")


def test_a_thousand_that_nobody_waits_for_cost_nothing() -> None:
    named = Named()
    for number in range(1000):
        named.give("a", str(number)).cancel()
    named.give("b", "wanted")
    named.orders.carry_out()
    assert named.served == ["wanted"]


def test_a_panic_of_a_library_is_an_error_of_the_order() -> None:
    class PanicException(BaseException):
        pass

    def panic() -> None:
        raise PanicException("rust")

    orders = Orders()
    order = orders.give(panic)
    with pytest.raises(PanicException):  # the thread's root counts it and goes on
        orders.carry_out()
    with pytest.raises(RuntimeError, match="PanicException"):
        order.result()

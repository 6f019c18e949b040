import sys
import threading

import pytest

from service.orders import Orders


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

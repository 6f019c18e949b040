import pytest

from service.errors import (
    ContextExceeded,
    Draining,
    InvalidRequest,
    QueueFull,
    TooManyRequests,
)
from service.requests.limits import Admission, Limits, check_context


def open_requests(admission: Admission, count: int, client: str = "a", tokens: int = 10) -> None:
    for _ in range(count):
        admission.on_opened(client, tokens)


@pytest.mark.parametrize(
    ("num_slots", "max_waiting", "num_open", "accepted"),
    [(2, 3, 0, True), (2, 3, 4, True), (2, 3, 5, False), (1, 0, 0, True), (1, 0, 1, False)],
)
def test_slots_and_queue_bound_what_is_open(
    num_slots: int, max_waiting: int, num_open: int, accepted: bool
) -> None:
    admission = Admission(Limits(num_slots=num_slots, max_waiting_requests=max_waiting))
    open_requests(admission, num_open)
    if accepted:
        admission.check("b")
        return
    with pytest.raises(QueueFull, match=f"the limit is {num_slots + max_waiting}") as full:
        admission.check("b")
    assert full.value.retry_after_s >= 1
    admission.on_ended("a", 10, None)
    admission.check("b")


def test_a_draining_service_accepts_nothing() -> None:
    admission = Admission(Limits(num_slots=2, max_waiting_requests=2))
    admission.is_draining = True
    with pytest.raises(Draining):
        admission.check("a")


def test_tokens_that_wait_are_bounded() -> None:
    admission = Admission(Limits(num_slots=1, max_waiting_requests=99, max_waiting_tokens=100))
    admission.check("a", 1000)  # a slot is free: it will not wait
    admission.on_opened("a", 1000)
    admission.on_started(1000)
    admission.check("a", 1000)  # nobody waits before it
    admission.on_opened("a", 90)
    admission.check("a", 10)
    message = "waiting requests ask for 90 tokens; with 11 more they would exceed 100"
    with pytest.raises(QueueFull, match=message):
        admission.check("a", 11)
    admission.on_started(90)
    admission.check("a", 11)
    admission.on_opened("a", 200)
    with pytest.raises(QueueFull):
        admission.check("a", 1)
    admission.on_ended("a", 200, None)
    admission.check("a", 1)


def test_a_client_has_a_share_and_others_theirs() -> None:
    limits = Limits(num_slots=4, max_waiting_requests=4, max_requests_per_client=2)
    admission = Admission(limits)
    open_requests(admission, 2, client="a")
    with pytest.raises(TooManyRequests, match=r"2 requests with this key .* the limit is 2"):
        admission.check("a")
    admission.check("b")
    admission.on_ended("a", 10, 1.0)
    admission.check("a")


def test_what_has_ended_leaves_nothing_behind() -> None:
    admission = Admission(Limits(num_slots=1, max_waiting_requests=9, max_waiting_tokens=50))
    for client in ("a", "b"):
        open_requests(admission, 2, client)
    admission.on_started(10)
    admission.on_ended("a", 10, 0.5)
    admission.on_ended("a", 10, None)
    for _ in range(2):
        admission.on_ended("b", 10, None)
    assert (admission._num_open, admission._waiting_tokens) == (0, 0)
    assert not admission._of_client


def retry_after_s(admission: Admission, num_tokens: int = 0) -> int:
    with pytest.raises(QueueFull) as full:
        admission.check("a", num_tokens)
    return full.value.retry_after_s


def test_the_time_to_come_back_is_that_until_a_slot_is_free_at_the_recent_rate() -> None:
    admission = Admission(Limits(num_slots=4, max_waiting_requests=0))
    for service_s, expected in ((60.0, 15), (0.01, 1)):
        for _ in range(100):
            open_requests(admission, 1)
            admission.on_started(10)
            admission.on_ended("a", 10, service_s)
        open_requests(admission, 4)
        assert retry_after_s(admission) == expected
        for _ in range(4):
            admission.on_ended("a", 10, None)


def test_for_tokens_it_is_the_time_until_so_many_are_served() -> None:
    limits = Limits(num_slots=2, max_waiting_requests=99, max_waiting_tokens=1000)
    admission = Admission(limits)
    for _ in range(200):  # two slots at 50 tokens a second each
        open_requests(admission, 1, tokens=100)
        admission.on_started(100)
        admission.on_ended("a", 100, 2.0)
    open_requests(admission, 10, tokens=100)
    assert retry_after_s(admission, num_tokens=490) == 5, "490 tokens at 100 a second"


def test_it_is_right_for_a_queue_that_is_served_at_a_steady_pace() -> None:
    """Four slots, eight seconds a request: one ends every two seconds, and so it is said."""
    admission = Admission(Limits(num_slots=4, max_waiting_requests=4))
    open_requests(admission, 8)
    for _ in range(4):
        admission.on_started(10)
    waits = []
    for _ in range(60):
        waits.append(retry_after_s(admission))
        admission.on_ended("a", 10, 8.0)
        admission.on_started(10)
        admission.check("a")
        open_requests(admission, 1)
    assert waits[-20:] == [2] * 20


@pytest.mark.parametrize(("prompt", "output"), [(1, 1), (5, 5), (9, 1), (1, 9)])
def test_what_fits_passes(prompt: int, output: int) -> None:
    check_context(prompt, output, 10)


@pytest.mark.parametrize(
    ("prompt", "output", "param", "message"),
    [
        (10, 1, "prompt", "the prompt has 10 tokens, the model takes at most 9"),
        (99, 1, "prompt", "the prompt has 99 tokens, the model takes at most 9"),
        (4, 7, "max_new_tokens", "4 prompt tokens and max_new_tokens 7 exceed the model's 10"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_numbers(
    prompt: int, output: int, param: str, message: str
) -> None:
    with pytest.raises(ContextExceeded, match=message) as refused:
        check_context(prompt, output, 10)
    assert refused.value.param == param


def test_how_much_could_be_asked_for_is_said() -> None:
    with pytest.raises(ContextExceeded, match="ask for at most 6"):
        check_context(4, 7, 10)


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="it has no tokens") as refused:
        check_context(0, 1, 10)
    assert refused.value.param == "prompt"


def test_several_come_in_together_or_not_at_all() -> None:
    admission = Admission(Limits(num_slots=2, max_waiting_requests=2))
    admission.check("", num_requests=4)
    admission.on_opened("", 5)
    with pytest.raises(QueueFull):
        admission.check("", num_requests=4)
    admission.check("", num_requests=3)
    with pytest.raises(InvalidRequest, match="5 answers at once; there can be 4"):
        admission.check("", num_requests=5)
    keyed = Admission(Limits(num_slots=9, max_waiting_requests=9, max_requests_per_client=3))
    keyed.on_opened("a", 5)
    keyed.check("b", num_requests=3)
    with pytest.raises(TooManyRequests):
        keyed.check("a", num_requests=3)
    with pytest.raises(InvalidRequest, match="there can be 3"):
        keyed.check("b", num_requests=4)

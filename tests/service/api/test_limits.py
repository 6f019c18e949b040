import pytest

from service.api.limits import Admission, check_context
from service.errors import ContextExceeded, Draining, InvalidRequest, QueueFull


@pytest.mark.parametrize(
    ("num_slots", "max_waiting", "num_open", "accepted"),
    [(2, 3, 0, True), (2, 3, 4, True), (2, 3, 5, False), (1, 0, 0, True), (1, 0, 1, False)],
)
def test_slots_and_queue_bound_what_is_open(
    num_slots: int, max_waiting: int, num_open: int, accepted: bool
) -> None:
    admission = Admission(num_slots=num_slots, max_waiting_requests=max_waiting)
    if accepted:
        admission.check(num_open)
        return
    with pytest.raises(QueueFull, match=f"the limit is {num_slots + max_waiting}") as full:
        admission.check(num_open)
    assert full.value.retry_after_s >= 1


def test_a_draining_service_accepts_nothing() -> None:
    admission = Admission(num_slots=2, max_waiting_requests=2)
    admission.is_draining = True
    with pytest.raises(Draining):
        admission.check(0)


def test_the_time_to_come_back_follows_how_long_requests_hold_slots() -> None:
    admission = Admission(num_slots=4, max_waiting_requests=0)
    assert admission.retry_after_s() == 1
    for _ in range(100):
        admission.on_finished(60.0)
    assert admission.retry_after_s() == 15
    for _ in range(100):
        admission.on_finished(0.01)
    assert admission.retry_after_s() == 1


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

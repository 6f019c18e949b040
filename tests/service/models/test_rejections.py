import logging

import pytest

from service.models.rejections import RETRY_AFTER_LOOKS, Refusals

KEY = ("toy", 3)


def test_the_same_refusal_is_said_and_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    counted: list[str] = []
    refusals = Refusals(counted.append)
    for _ in range(3):
        refusals.add(KEY, "damaged", "cut short", ("a",))
    assert counted == ["damaged"]
    assert caplog.record_tuples == [
        (
            "service.models.rejections",
            logging.WARNING,
            "refused step 3 of run toy (damaged): cut short",
        )
    ]
    refusals.add(KEY, "damaged", "cut short", ("b",))
    refusals.add(KEY, "tokenizer", "another", ("b",))
    assert counted == ["damaged", "damaged", "tokenizer"]


def test_a_refusal_stands_until_the_step_changes() -> None:
    refusals = Refusals(lambda reason: None)
    refusals.add(KEY, "damaged", "cut short", ("a",))
    for _ in range(100):
        refusals.on_look("toy", [3])
    standing = refusals.stands(KEY, ("a",))
    assert standing is not None
    assert standing.reason == "damaged"
    assert refusals.stands(KEY, ("b",)) is None
    assert refusals.stands(("toy", 4), ("a",)) is None
    refusals.forget(KEY)
    assert refusals.stands(KEY, ("a",)) is None


@pytest.mark.parametrize("reason", RETRY_AFTER_LOOKS)
def test_what_may_pass_by_itself_is_tried_again(reason: str) -> None:
    counted: list[str] = []
    refusals = Refusals(counted.append)
    for _ in range(3):
        refusals.add(KEY, reason, "not now", ("a",))
        for _ in range(RETRY_AFTER_LOOKS[reason]):
            assert refusals.stands(KEY, ("a",)) is not None
            refusals.on_look("toy", [3])
        assert refusals.stands(KEY, ("a",)) is None
    assert counted == [reason]


def test_what_is_gone_is_forgotten_but_not_with_the_whole_volume() -> None:
    refusals = Refusals(lambda reason: None)
    refusals.add(KEY, "damaged", "cut short", ())
    refusals.add(("other", 3), "damaged", "cut short", ())
    refusals.on_look("toy", [])
    assert refusals.table.keys() == {KEY, ("other", 3)}
    refusals.on_look("toy", [1, 2])
    assert refusals.table.keys() == {("other", 3)}

from collections.abc import Iterator
from typing import Any

import pytest
from serving import generation_request
from toys import toy_tokenizer

from service.engine.request import FinishReason
from service.engine.scheduling.sequence import Sequence


def make_sequence(prompt_length: int, *, max_new_tokens: int = 3) -> Sequence:
    prompt_ids = tuple(range(10, 10 + prompt_length))
    request = generation_request("a", prompt_ids, max_new_tokens=max_new_tokens)
    return Sequence(request, toy_tokenizer())


def test_a_new_sequence_has_its_whole_prompt_to_compute() -> None:
    sequence = make_sequence(4)
    assert (sequence.num_tokens, sequence.num_computed, sequence.num_uncomputed) == (4, 0, 4)
    assert sequence.slot is None


def test_after_prefill_one_token_is_left_a_step() -> None:
    sequence = make_sequence(4)
    sequence.num_computed = 4
    sequence.output_ids.append(99)
    assert (sequence.num_tokens, sequence.num_uncomputed) == (5, 1)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 3, (10, 11, 12)),
        (1, 2, (11,)),
        (2, 4, (12, 98)),
        (3, 5, (98, 99)),
        (0, 5, (10, 11, 12, 98, 99)),
    ],
)
def test_tokens_run_on_from_prompt_to_output(
    start: int, end: int, expected: tuple[int, ...]
) -> None:
    sequence = make_sequence(3)
    sequence.output_ids += [98, 99]
    assert sequence.tokens(start, end) == expected


@pytest.mark.parametrize(
    ("outputs", "max_model_tokens", "expected"),
    [
        (2, 100, None),
        (3, 100, FinishReason.LENGTH),
        (2, 6, FinishReason.LENGTH),
        (1, 6, None),
    ],
)
def test_the_limit_is_the_requests_or_the_models(
    outputs: int, max_model_tokens: int, expected: FinishReason | None
) -> None:
    sequence = make_sequence(4)
    sequence.output_ids += [9] * outputs
    assert sequence.limit_reached(max_model_tokens) is expected


def test_an_empty_prompt_is_a_bug_of_the_border() -> None:
    with pytest.raises(AssertionError):
        make_sequence(0)


class Counting(tuple[int, ...]):
    """A prompt that counts what is copied of it."""

    copied = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        Counting.copied += len(found) if isinstance(key, slice) else 0
        return found

    def __iter__(self) -> Iterator[int]:
        Counting.copied += len(self)
        return super().__iter__()


def test_a_token_costs_nothing_of_the_text_before_it() -> None:
    sequence = Sequence(generation_request(prompt_ids=Counting(range(5000))), toy_tokenizer())
    Counting.copied = 0
    for number in range(100):
        sequence.output_ids.append(number)
        end = sequence.num_tokens
        assert sequence.tokens(end - 1, end) == (number,)
    assert Counting.copied == 0

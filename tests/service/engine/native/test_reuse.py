"""Over the kernels, reused prefixes and verified guesses change no token, greedy or drawn."""

import pytest
from serving import generation_request
from serving.native import ISAS, PRECISIONS, native_runner, open_native
from toys import toy_tokenizer

from service.engine.engine import Engine
from service.engine.request import Started, TokenGenerated

STEM = tuple(range(40, 90))


def answers(
    isa: str, precision: str, num_slots: int, **options: bool
) -> tuple[list[list[int]], int, int]:
    """Tokens of a dozen requests that begin alike, reused prompt tokens, accepted guesses."""
    runner = native_runner(open_native(isa), precision, num_slots=num_slots)
    engine = Engine(runner, toy_tokenizer(), max_step_tokens=24, **options)
    answers: list[list[int]] = [[] for _ in range(12)]
    reused = accepted = 0
    for number in range(12):
        prompt_ids = (*STEM[: 4 * number + 1], *(7, 8, 9) * 3)
        drawn = {"temperature": 0.7, "top_k": 2, "seed": number} if number % 3 == 0 else {}
        engine.submit(
            generation_request(str(number), prompt_ids, max_new_tokens=30 + number, **drawn)
        )
        while number % 4 == 3 and not engine.is_idle:
            for event in engine.step():
                if isinstance(event, TokenGenerated):
                    answers[int(event.request_id)].append(event.token_id)
                elif isinstance(event, Started):
                    reused += event.num_reused
            accepted += engine.stats().num_accepted_tokens
    return answers, reused, accepted


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_answers_are_those_of_one_after_another_without(isa: str, precision: str) -> None:
    plain, reused, accepted = answers(isa, precision, 1, reuse_prefixes=False, speculation=False)
    assert (reused, accepted) == (0, 0)
    quick, reused, accepted = answers(isa, precision, 3)
    assert quick == plain
    assert reused > 100
    assert accepted > 10

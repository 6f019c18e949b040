"""One stream's guesses, its tokens handed in by the test: no model."""

import random

from serving import generation_request
from toys import toy_tokenizer

from service.engine.scheduling.sequence import Sequence
from service.engine.speculation.drafter import MAX_GUESSES, Drafter

VERSE = tuple(random.Random(1).sample(range(300), 60))
"""No two of its tokens are the same."""

FALSE_FRIENDS = tuple(token for number in range(60) for token in (400, 401, 500 + number))
"""A pair that comes again and again, and never goes on as it did before."""


def stream(prompt_ids: tuple[int, ...]) -> Sequence:
    return Sequence(generation_request("a", prompt_ids, max_new_tokens=999), toy_tokenizer())


def follow(sequence: Sequence, text: tuple[int, ...], limit: int = 99) -> list[tuple[int, int]]:
    """Let the sequence go on as the text does; guesses and right ones of each step."""
    drafter = Drafter()
    steps = []
    position = 0
    while position < len(text):
        draft = drafter.draft(sequence, min(limit, len(text) - position - 1))
        ahead = text[position : position + len(draft)]
        misses = [n for n, (a, b) in enumerate(zip(draft, ahead, strict=False)) if a != b]
        num_right = min([*misses, len(ahead)])
        steps.append((len(draft), num_right))
        sequence.output_ids += text[position : position + num_right + 1]
        position += num_right + 1
    return steps


def test_a_text_that_says_nothing_twice_gets_no_guess() -> None:
    assert follow(stream(VERSE[:20]), VERSE[20:]) == [(0, 0)] * 40


def test_a_copy_is_guessed_in_ever_longer_runs() -> None:
    steps = follow(stream(VERSE), VERSE)
    assert sum(right for _, right in steps) == sum(guessed for guessed, _ in steps)
    assert steps[-2][0] == MAX_GUESSES
    assert len(steps) < 20, "steps for 60 tokens"


def test_no_more_is_guessed_than_is_allowed() -> None:
    steps = follow(stream(VERSE), VERSE, limit=3)
    assert max(guessed for guessed, _ in steps) == 3
    assert {guessed for guessed, _ in follow(stream(VERSE), VERSE, limit=0)} == {0}


def test_guesses_that_miss_come_to_an_end() -> None:
    steps = follow(stream(FALSE_FRIENDS[:5]), FALSE_FRIENDS[5:])
    assert sum(guessed for guessed, _ in steps[60:]) == 0
    assert sum(guessed for guessed, _ in steps) < 20


def test_a_stream_that_was_given_up_is_found_to_repeat_itself_without_a_row() -> None:
    sequence = stream(VERSE)
    drafter = Drafter()
    for token_id in FALSE_FRIENDS:
        drafter.draft(sequence, 99)
        sequence.output_ids.append(token_id)
    lengths = []
    for token_id in VERSE[:30]:
        lengths.append(len(drafter.draft(sequence, 99)))
        sequence.output_ids.append(token_id)
    assert lengths[0] == 0
    assert lengths[-1] == MAX_GUESSES


def test_who_has_given_up_guesses_nothing() -> None:
    drafter = Drafter()
    drafter.has_given_up = True
    assert drafter.draft(stream((1, 2, 3) * 5), 99) == ()

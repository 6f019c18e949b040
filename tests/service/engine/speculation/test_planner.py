import pytest
from serving import generation_request
from toys import toy_tokenizer

from service.engine.scheduling.plan import Chunk, Plan
from service.engine.scheduling.sequence import Sequence
from service.engine.speculation.planner import MAX_ROWS, Speculation

LOOP = (1, 2, 3, 4) * 5


def decoding(slot: int, prompt_ids: tuple[int, ...], *, max_new_tokens: int = 99) -> Chunk:
    """A chunk of a sequence's last token."""
    request = generation_request(str(slot), prompt_ids, max_new_tokens=max_new_tokens)
    sequence = Sequence(request, toy_tokenizer())
    sequence.slot, sequence.num_computed = slot, len(prompt_ids) - 1
    return Chunk(sequence, len(prompt_ids) - 1, len(prompt_ids))


@pytest.fixture(autouse=True)
def _trust_every_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.speculation.drafter.FIRST_CHANCE", 1.0)


def make(max_model_tokens: int, max_step_tokens: int = 256) -> Speculation:
    return Speculation(max_model_tokens=max_model_tokens, max_step_tokens=max_step_tokens)


def drafts(plan: Plan, max_model_tokens: int = 999) -> list[tuple[int, tuple[int, ...]]]:
    """Slots in the new plan's order, with their guesses."""
    extended = make(max_model_tokens).extend(plan)
    assert all(c.num_tokens == 1 + len(c.draft) for c in extended.chunks)
    return [(chunk.slot, chunk.draft) for chunk in extended.chunks]


def test_who_repeats_itself_stands_behind_those_of_one_token() -> None:
    plan = Plan((decoding(0, LOOP), decoding(1, tuple(range(20))), decoding(2, LOOP)), ())
    assert drafts(plan) == [(1, ()), (0, (1, 2, 3, 4)), (2, (1, 2, 3, 4))]


@pytest.mark.parametrize(("count", "room"), [(1, 8), (2, 7), (4, 3), (8, 1), (9, 0), (32, 0)])
def test_rows_are_shared_and_a_large_batch_gets_none(count: int, room: int) -> None:
    plan = Plan(tuple(decoding(slot, LOOP) for slot in range(count)), ())
    assert [len(draft) for _, draft in drafts(plan)] == [room] * count
    assert count * (1 + room) <= max(MAX_ROWS, count)


def test_a_step_stays_within_its_budget() -> None:
    plan = Plan((decoding(0, LOOP),), ())
    assert make(99, max_step_tokens=5).extend(plan).chunks[0].num_tokens == 5


def test_nobody_guesses_while_a_prompt_is_computed() -> None:
    prompt = decoding(1, LOOP)
    plan = Plan((decoding(0, LOOP), Chunk(prompt.sequence, 3, 9)), ())
    assert make(99).extend(plan) is plan


@pytest.mark.parametrize(
    ("max_new_tokens", "max_model_tokens", "most"),
    [(0, 99, 0), (1, 99, 0), (3, 99, 2), (99, 22, 1)],
)
def test_no_guess_goes_beyond_what_may_be_answered(
    max_new_tokens: int, max_model_tokens: int, most: int
) -> None:
    plan = Plan((decoding(0, LOOP, max_new_tokens=max_new_tokens),), ())
    ((_, draft),) = drafts(plan, max_model_tokens)
    assert len(draft) == most


def test_a_sequence_that_was_given_up_gets_none() -> None:
    speculation = make(99)
    plan = Plan((decoding(0, LOOP),), ())
    assert speculation.extend(plan).chunks[0].draft
    speculation.give_up(plan.chunks[0].sequence)
    assert speculation.extend(plan) == plan


def test_who_has_ended_is_forgotten() -> None:
    speculation = make(99)
    speculation.extend(Plan((decoding(0, LOOP),), ()))
    assert len(speculation._drafters) == 0

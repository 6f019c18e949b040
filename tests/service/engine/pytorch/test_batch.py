import torch
from serving import generation_request
from toys import toy_tokenizer

from service.engine.pytorch.batch import Batch, build_batch
from service.engine.scheduling.plan import Chunk, Plan
from service.engine.scheduling.sequence import Sequence

CPU = torch.device("cpu")


def make_chunk(
    slot: int, prompt_ids: tuple[int, ...], start: int, end: int, draft: tuple[int, ...] = ()
) -> Chunk:
    sequence = Sequence(generation_request(f"slot-{slot}", prompt_ids), toy_tokenizer())
    sequence.slot = slot
    return Chunk(sequence, start, end, draft)


def make_batch(*chunks: Chunk) -> Batch:
    return build_batch(Plan(chunks, ()), CPU)


def test_all_tokens_of_a_step_stand_in_one_row() -> None:
    batch = make_batch(
        make_chunk(1, (10, 11, 12), 2, 3),
        make_chunk(3, (20, 21, 22, 23), 0, 4),
        make_chunk(0, (30, 31, 32, 33, 34), 1, 3),
    )
    assert batch.token_ids.tolist() == [[12, 20, 21, 22, 23, 31, 32]]
    assert batch.positions.tolist() == [[2, 0, 1, 2, 3, 1, 2]]
    assert batch.slots.tolist() == [1, 3, 3, 3, 3, 0, 0]
    # Only chunks that reach their sequence's end are followed by a token: the first and second.
    assert batch.yielding_rows.tolist() == [0, 4]
    assert batch.token_ids.dtype == batch.positions.dtype == batch.slots.dtype == torch.int64


def test_neighbouring_decodes_are_read_as_a_slice() -> None:
    batch = make_batch(make_chunk(2, (1, 2), 1, 2), make_chunk(3, (1, 2, 3, 4), 3, 4))
    assert batch.decode is not None
    assert batch.decode.slots == slice(2, 4)
    assert (batch.decode.count, batch.decode.length) == (2, 4)
    assert batch.decode.mask[:, 0, 0].tolist() == [[True, True, False, False], [True] * 4]
    assert batch.prefills == ()


def test_scattered_decodes_are_read_by_index() -> None:
    batch = make_batch(make_chunk(0, (1, 2), 1, 2), make_chunk(2, (1, 2), 1, 2))
    assert batch.decode is not None
    assert isinstance(batch.decode.slots, torch.Tensor)
    assert batch.decode.slots.tolist() == [0, 2]


def test_a_first_chunk_is_plainly_causal_and_a_later_one_has_a_mask() -> None:
    batch = make_batch(make_chunk(0, (1, 2, 3), 0, 2), make_chunk(1, (1, 2, 3, 4), 2, 4))
    first, later = batch.prefills
    assert batch.decode is None
    assert (first.slot, first.rows, first.start, first.end) == (0, slice(0, 2), 0, 2)
    assert first.mask is None
    assert (later.slot, later.rows, later.start, later.end) == (1, slice(2, 4), 2, 4)
    assert later.mask is not None
    assert later.mask.tolist() == [[True, True, True, False], [True] * 4]


def test_a_step_may_yield_nothing() -> None:
    batch = make_batch(make_chunk(0, (1, 2, 3, 4), 0, 2))
    assert batch.yielding_rows.tolist() == []


def test_a_draft_follows_its_sequence_and_yields_a_row_a_guess() -> None:
    batch = make_batch(
        make_chunk(2, (10, 11), 1, 2),
        make_chunk(1, (20, 21, 22), 2, 5, draft=(8, 9)),
        make_chunk(0, (30, 31, 32), 0, 2),
    )
    assert batch.token_ids.tolist() == [[11, 22, 8, 9, 30, 31]]
    assert batch.positions.tolist() == [[1, 2, 3, 4, 0, 1]]
    assert batch.yielding_rows.tolist() == [0, 1, 2, 3]

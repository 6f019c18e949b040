"""A sequence whose numbers overflow ends with an error and harms nobody, now or later."""

import torch
from serving import generation_request, reference_ids, toy_engine
from toys import toy_config, toy_decoder

from service.engine.engine import Engine
from service.engine.request import Finished, FinishReason, Started, TokenGenerated

POISON = 5
"""Token whose embedding is not a number."""


def poisoned_engine() -> Engine:
    decoder = toy_decoder(2, toy_config(tie_word_embeddings=False)).double()
    with torch.no_grad():
        decoder.model.embed_tokens.weight[POISON] = torch.nan
    return toy_engine(decoder, num_slots=1, max_step_tokens=4)


def answer(engine: Engine, prompt_ids: tuple[int, ...]) -> tuple[list[int], Finished]:
    engine.submit(generation_request(prompt_ids=prompt_ids, max_new_tokens=6))
    tokens, ends = [], []
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, TokenGenerated):
                tokens.append(event.token_id)
            elif isinstance(event, Finished):
                ends.append(event)
        engine.check_integrity()
    (end,) = ends
    return tokens, end


def test_numbers_that_overflow_end_their_request_with_an_error() -> None:
    tokens, end = answer(poisoned_engine(), (7, 8, POISON, 9, 10, 11, 12))
    assert tokens == []
    assert end.reason is FinishReason.ERROR
    assert "not finite" in end.message


def test_the_next_sequence_in_the_slot_sees_nothing_of_them() -> None:
    engine = poisoned_engine()
    answer(engine, (7, 8, 9, 10, POISON))
    request = generation_request(prompt_ids=(20, 21), max_new_tokens=6)
    healthy = toy_decoder(2, toy_config(tie_word_embeddings=False)).double()
    assert POISON not in reference_ids(healthy, request)
    tokens, end = answer(engine, (20, 21))
    assert tokens == list(reference_ids(healthy, request))
    assert end.reason is FinishReason.LENGTH


def test_what_is_broken_is_no_source_for_others() -> None:
    engine = poisoned_engine()
    prompt_ids = (7, 8, 9, 10, 11, 12, POISON)
    assert answer(engine, prompt_ids)[1].reason is FinishReason.ERROR
    engine.submit(generation_request(prompt_ids=(*prompt_ids[:6], 13)))
    assert engine.step()[0] == Started("a", num_reused=0)

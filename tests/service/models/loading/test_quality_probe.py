import math

import pytest
import torch
from serving import generation_request, reference_ids, toy_engine, toy_runner
from tokenizers import Tokenizer as Backend
from tokenizers import processors
from toys import toy_config, toy_decoder, toy_tokenizer

from lm.model.decoder import Decoder
from lm.text.tokenizer import Tokenizer
from service.models.loading import quality_probe as probe
from service.models.loading.quality_probe import (
    CONTINUATION_TOKENS,
    LOOP_TOKENS,
    MAX_LOOP_PERIOD,
    PROBE_TEXT,
    bits_per_byte,
    greedy_continuation,
    is_degenerate,
    probe_ids,
)


def test_bits_per_byte_is_the_sum_over_tokens_one_by_one() -> None:
    decoder = toy_decoder(3).double()
    token_ids = probe_ids(toy_tokenizer(), PROBE_TEXT, 256)
    nats = 0.0
    with torch.inference_mode():
        for end in range(1, len(token_ids)):
            logits = decoder(torch.tensor([token_ids[:end]]))[0, -1]
            nats -= float(logits.log_softmax(-1)[token_ids[end]])
    num_bytes = sum(len(toy_tokenizer().decode([token_id])) for token_id in token_ids[1:])
    expected = nats / math.log(2) / num_bytes
    assert bits_per_byte(toy_runner(decoder), toy_tokenizer()) == pytest.approx(expected, rel=1e-5)


def test_the_probe_begins_once_where_the_tokenizer_puts_tokens_around_a_text() -> None:
    plain = toy_tokenizer()
    backend = Backend.from_str(plain.backend.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    around = Tokenizer(backend, bos_token_id=0, eos_token_ids=[0])
    assert around.encode("a") == [0, *plain.encode("a"), 0]
    assert probe_ids(around, PROBE_TEXT, 1000) == [0, *plain.encode(PROBE_TEXT)]


def test_a_model_without_a_clue_needs_the_entropy_of_its_vocabulary() -> None:
    decoder = Decoder(toy_config()).eval()
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.zero_()
    token_ids = probe_ids(toy_tokenizer(), PROBE_TEXT, 256)
    tokens_per_byte = 255 / len(toy_tokenizer().decode(token_ids[1:]))
    measured = bits_per_byte(toy_runner(decoder), toy_tokenizer())
    assert measured == pytest.approx(math.log2(300) * tokens_per_byte, rel=1e-5)


def test_a_context_of_one_token_measures_nothing() -> None:
    decoder = toy_decoder(0, toy_config(max_position_embeddings=1))
    assert bits_per_byte(toy_runner(decoder), toy_tokenizer()) == math.inf


def test_the_continuation_is_the_reference_generators() -> None:
    decoder = toy_decoder(5).double()
    prompt_ids = probe_ids(toy_tokenizer(), probe._PROMPT, 128)
    assert PROBE_TEXT.startswith(probe._PROMPT)
    request = generation_request(
        "a", tuple(prompt_ids), max_new_tokens=min(CONTINUATION_TOKENS, 256 - len(prompt_ids))
    )
    engine = toy_engine(decoder)
    assert greedy_continuation(engine, toy_tokenizer(), 256) == reference_ids(decoder, request)
    assert engine.is_idle


@pytest.mark.parametrize("period", range(1, MAX_LOOP_PERIOD + 2))
def test_a_short_loop_is_degenerate(period: int) -> None:
    beginning = list(range(100, 132))
    loop = [number % period for number in range(LOOP_TOKENS)]
    assert is_degenerate(beginning + loop) == (period <= MAX_LOOP_PERIOD)


@pytest.mark.parametrize(
    ("token_ids", "expected"),
    [([], True), ([7], False), ([7] * (LOOP_TOKENS - 1), False), (list(range(64)), False)],
    ids=["nothing", "one token", "too short to tell", "no loop"],
)
def test_what_else_is_degenerate(token_ids: list[int], expected: bool) -> None:
    assert is_degenerate(token_ids) == expected

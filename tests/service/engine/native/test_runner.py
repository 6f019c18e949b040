"""Whole steps: equal to their definition, and the same however a text is cut and accompanied."""

import dataclasses
import itertools
import random
import threading

import pytest
import torch
from serving import generation_request
from serving.native import ISAS, PRECISIONS, native_config, native_runner, open_native
from toys import toy_config, toy_decoder, toy_tokenizer

from service.engine.native.library import NO_RESOURCES, OUT_OF_RANGE
from service.engine.native.packing import pack, why_unsupported
from service.engine.native.reference import logits
from service.engine.native.runner import NativeRunner
from service.engine.scheduling.plan import Chunk, Plan
from service.engine.scheduling.sequence import Sequence

TEXT = tuple(random.Random(0).randrange(300) for _ in range(150))
"""Longer than one part of the attention's keys."""


def sequence(slot: int, token_ids: tuple[int, ...]) -> Sequence:
    made = Sequence(generation_request("a", token_ids), toy_tokenizer())
    made.slot = slot
    return made


def last_logits(runner: NativeRunner, cuts: list[int], slot: int = 0) -> torch.Tensor:
    """Of ``TEXT``, computed chunk by chunk."""
    text = sequence(slot, TEXT)
    for start, end in itertools.pairwise([0, *cuts, len(TEXT)]):
        output = runner.run(Plan((Chunk(text, start, end),), ()))
        assert output.is_finite == (True,)
        assert len(output.logits) == (end == len(TEXT))
    return output.logits[0]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_step_is_its_definition(isa: str, precision: str, tied: bool) -> None:
    config = native_config()
    if not tied:
        config = toy_config(tie_word_embeddings=False, num_attention_heads=2, num_key_value_heads=2)
    library = open_native(isa)
    runner = native_runner(library, precision, config=config)
    expected = logits(library, config, toy_decoder(3, config).state_dict(), precision, TEXT)
    out = runner.score(TEXT)
    # A number on the edge between two roundings may fall to either side.
    distance = (out - expected).norm() / expected.norm()
    assert float(distance) < 0.02
    assert float((out - expected).abs().max()) < 0.05 * float(expected.abs().max())


@pytest.mark.parametrize("isa", ISAS)
def test_bfloat16_is_near_the_decoder(isa: str) -> None:
    decoder = toy_decoder(3, native_config())
    with torch.inference_mode():
        expected = decoder(torch.tensor([TEXT]))[0]
    out = native_runner(open_native(isa), "bfloat16").score(TEXT)
    assert float((out - expected).norm() / expected.norm()) < 0.02


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_cuts_and_slots_do_not_matter(isa: str, precision: str) -> None:
    runner = native_runner(open_native(isa), precision, max_step_tokens=150)
    whole = last_logits(runner, [])
    for slot, cuts in enumerate(([1], [149], [3, 17, 18, 100], list(range(1, 150)))):
        assert torch.equal(last_logits(runner, cuts, slot), whole), f"{cuts} in {slot}"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_guess_gets_the_logits_of_a_token_that_was_chosen(isa: str, precision: str) -> None:
    runner = native_runner(open_native(isa), precision, max_step_tokens=150)
    expected = runner.score(TEXT)[99:109]
    text = sequence(1, TEXT[:100])
    runner.run(Plan((Chunk(text, 0, 99),), ()))
    out = runner.run(Plan((Chunk(text, 99, 109, TEXT[100:109]),), ())).logits
    assert torch.equal(out, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threads", [1, 2])
def test_company_does_not_matter(isa: str, precision: str, threads: int) -> None:
    """One to 32 sequences decode together, each at a length of its own, beside a prompt."""
    library = open_native(isa, threads)
    runner = native_runner(library, precision, num_slots=33, max_step_tokens=96)
    texts = [TEXT[offset : offset + 20 + offset] for offset in range(32)]
    alone = []
    for slot, text in enumerate(texts):
        runner.run(Plan((Chunk(sequence(slot, text), 0, len(text) - 1),), ()))
        chunk = Chunk(sequence(slot, text), len(text) - 1, len(text))
        alone.append(runner.run(Plan((chunk,), ())).logits[0])
    for count in (2, 5, 12, 13, 31, 32):
        chunks = [
            Chunk(sequence(slot, text), len(text) - 1, len(text))
            for slot, text in enumerate(texts[:count])
        ]
        newcomer = Chunk(sequence(32, TEXT), 0, 50)
        together = runner.run(Plan((*chunks, newcomer), ())).logits
        for slot, row in enumerate(together):
            assert torch.equal(row, alone[slot]), f"row {slot} of {count}"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_sequence_that_overflows_is_named_and_harms_nobody(isa: str, precision: str) -> None:
    config = dataclasses.replace(native_config(), tie_word_embeddings=False)
    weights = toy_decoder(3, config).state_dict()
    weights["model.embed_tokens.weight"][7] = torch.inf
    library = open_native(isa)
    runner = native_runner(library, precision, config=config)
    healthy = runner.run(Plan((Chunk(sequence(1, (5, 6)), 0, 2),), ())).logits
    poisoned = NativeRunner(
        library, pack(config, weights, precision, library), runner.cache, max_step_tokens=64
    )
    chunks = Chunk(sequence(0, (5, 7)), 0, 2), Chunk(sequence(1, (5, 6)), 0, 2)
    output = poisoned.run(Plan(chunks, ()))
    assert output.is_finite == (False, True)
    assert torch.equal(output.logits[1:], healthy)
    runner.cache.clear(0, 0, 2)
    after = runner.run(Plan((Chunk(sequence(0, (5, 6)), 0, 2),), ()))
    assert torch.equal(after.logits, healthy)


@pytest.mark.parametrize(
    ("token_ids", "positions", "slots"),
    [
        ([300], [0], [0]),
        ([-1], [0], [0]),
        ([0], [256], [0]),
        ([0], [-1], [0]),
        ([0], [0], [4]),
        ([0], [0], [-1]),
        ([0] * 65, list(range(65)), [0] * 65),
    ],
)
def test_numbers_out_of_range_are_refused(
    token_ids: list[int], positions: list[int], slots: list[int]
) -> None:
    runner = native_runner(open_native(), "int8")
    with pytest.raises(IndexError, match="out of range"):
        runner.compute(token_ids, positions, slots, [0])


def test_memory_that_cannot_be_had_is_an_error_and_no_crash() -> None:
    with pytest.raises(MemoryError, match="no memory for steps of -1 tokens"):
        native_runner(open_native(), "int8", max_step_tokens=-1)


@pytest.mark.parametrize(
    ("outcome", "error"), [(OUT_OF_RANGE, IndexError), (NO_RESOURCES, MemoryError)]
)
def test_what_a_step_says_of_itself_is_an_error(
    outcome: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = native_runner(open_native(), "int8")
    monkeypatch.setattr(open_native().functions, "nestling_step", lambda *_: outcome)
    with pytest.raises(error):
        runner.compute([1], [0], [0], [0])


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": "learned"},
        {"norm": "layernorm", "bias": True},
        {"mlp": "gelu"},
        {"residual_scale": 0.7},
        {"num_attention_heads": 4},
        {"hidden_size": 80, "num_attention_heads": 1, "num_key_value_heads": 1},
        {"intermediate_size": 100, "num_attention_heads": 2},
    ],
)
def test_other_shapes_are_refused_with_the_reason(changes: dict[str, object]) -> None:
    config = toy_config(**changes)
    assert why_unsupported(config)
    with pytest.raises(ValueError, match="no native kernels for this model: "):
        pack(config, {}, "int8", open_native())


def test_a_second_step_at_the_same_time_does_without_the_threads() -> None:
    """A model that is being loaded warms up beside one that serves."""
    library = open_native()
    runners = [native_runner(library, "int8", max_step_tokens=150) for _ in range(3)]
    expected = runners[0].score(TEXT)
    results: list[bool] = []

    def work(runner: NativeRunner) -> None:
        results.extend(torch.equal(runner.score(TEXT), expected) for _ in range(20))

    threads = [threading.Thread(target=work, args=(runner,)) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 60

"""Recorded steps give what steps computed as they come give, whoever else has a slot.

Recording is a stand-in here that runs the function again; what a recording needs of a function,
that it never waits for the device or looks at a value, the meta device holds it to.
"""

from collections.abc import Callable

import pytest
import torch
from serving import generation_request
from toys import toy_config, toy_decoder, toy_tokenizer

from lm.model.config import ModelConfig
from lm.model.decoder import Decoder
from service.engine.graphs.buckets import Bucket, all_buckets, bucket_of
from service.engine.graphs.cache import GraphCache
from service.engine.graphs.decode import StaticDecode
from service.engine.graphs.runner import GraphRunner
from service.engine.pytorch.cache import SlotCache
from service.engine.pytorch.runner import Runner
from service.engine.scheduling.plan import Chunk, Plan
from service.engine.scheduling.sequence import Sequence

SLOTS, TOKENS = 5, 24
CPU = torch.device("cpu")
PROMPTS = {0: (5, 250, 17), 2: (3, 42, 42, 8, 120), 3: (77, 31)}
CONFIGS = {"rope": toy_config(), "learned positions": toy_config(positions="learned")}


class Recorder:
    """Counts what is recorded and replayed."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, compute: Callable[[], None]) -> Callable[[], None]:
        compute()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            compute()

        return replay


def make_runners(config: ModelConfig, record: Recorder) -> tuple[GraphRunner, Runner]:
    decoder = toy_decoder(3, config).double()
    sizes = {"num_slots": SLOTS, "max_tokens": TOKENS}
    graph = GraphCache(config, **sizes, dtype=torch.float64, device=CPU)
    plain = SlotCache(config, **sizes, dtype=torch.float64, device=CPU)
    return GraphRunner(decoder, graph, record), Runner(decoder, plain)


def sequence(slot: int) -> Sequence:
    found = Sequence(generation_request(str(slot), PROMPTS[slot]), toy_tokenizer())
    found.slot = slot
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_replayed_steps_equal_computed_ones(name: str) -> None:
    record = Recorder()
    graph, plain = make_runners(CONFIGS[name], record)
    sequences = {slot: sequence(slot) for slot in PROMPTS}
    for slot, found in sequences.items():
        prompt = Plan((Chunk(found, 0, len(PROMPTS[slot])),), ())
        assert torch.equal(graph.run(prompt).logits, plain.run(prompt).logits)
        found.output_ids.append(10 + slot)
    assert record.replayed == 0
    for slots in ((0, 2, 3), (3,), (0, 3), (2,)):
        plan = Plan(
            tuple(Chunk(s, s.num_tokens - 1, s.num_tokens) for s in map(sequences.get, slots) if s),
            (),
        )
        replayed, computed = graph.run(plan), plain.run(plan)
        torch.testing.assert_close(replayed.logits, computed.logits, rtol=0, atol=1e-12)
        assert replayed.is_finite == computed.is_finite == (True,) * len(slots)
        for slot in slots:
            sequences[slot].output_ids.append(20 + slot)
    assert record.replayed == 4


def test_a_row_that_overflowed_is_told_and_spares_the_others() -> None:
    graph, _ = make_runners(toy_config(), Recorder())
    sequences = [sequence(slot) for slot in (0, 2)]
    for found in sequences:
        graph.run(Plan((Chunk(found, 0, found.num_tokens),), ()))
        found.output_ids.append(9)
    graph.cache.key[:, 0, :, 0] = torch.nan
    plan = Plan(tuple(Chunk(s, s.num_tokens - 1, s.num_tokens) for s in sequences), ())
    assert graph.run(plan).is_finite == (False, True)


def test_everything_is_recorded_beforehand() -> None:
    record = Recorder()
    graph, _ = make_runners(toy_config(), record)
    buckets = all_buckets(SLOTS, TOKENS)
    assert record.recorded == len(buckets) == len(set(buckets))
    needed = {
        bucket_of(rows, length, SLOTS, TOKENS)
        for rows in range(1, SLOTS + 1)
        for length in range(1, TOKENS + 1)
    }
    assert needed == set(buckets)
    assert isinstance(graph, Runner)


def test_a_bucket_holds_what_it_is_asked_for_and_little_more() -> None:
    for slots, tokens in ((1, 1), (32, 8192), (20, 1000)):
        for rows in range(1, slots + 1):
            for length in range(1, tokens + 1, 37):
                found = bucket_of(rows, length, slots, tokens)
                assert rows <= found.rows < 2 * rows + 1
                assert length <= found.length < max(2 * length, 257)
    assert bucket_of(3, 300, 32, 8192) == Bucket(4, 512)


def test_a_step_neither_waits_nor_looks_at_values() -> None:
    """On the meta device there are none: whatever asks for one raises an error."""
    config = toy_config()
    with torch.device("meta"):
        decoder = Decoder(config)
    meta = torch.device("meta")
    decoder._rotary_table = tuple(table.to(meta) for table in decoder._rotary_table)  # type: ignore[assignment]
    cache = GraphCache(config, num_slots=4, max_tokens=32, dtype=torch.float32, device=meta)
    step = StaticDecode(decoder, cache, Bucket(4, 32))
    with torch.inference_mode():
        step.compute()
    assert step.logits.shape == (4, config.vocab_size)
    with pytest.raises((RuntimeError, NotImplementedError)):
        step.is_finite.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records on a GPU")
def test_cuda_graphs_equal_the_plain_runner() -> None:
    from service.engine.graphs.cuda import CudaRecorder

    device = torch.device("cuda")
    config = toy_config()
    decoder = toy_decoder(3, config).to(device)
    sizes = {"num_slots": SLOTS, "max_tokens": TOKENS}
    graph_cache = GraphCache(config, **sizes, dtype=torch.float32, device=device)
    plain_cache = SlotCache(config, **sizes, dtype=torch.float32, device=device)
    graph = GraphRunner(decoder, graph_cache, CudaRecorder(device))
    plain = Runner(decoder, plain_cache)
    found = sequence(2)
    prompt = Plan((Chunk(found, 0, found.num_tokens),), ())
    for runner in (graph, plain):
        runner.run(prompt)
    for token in (4, 9, 30):
        found.output_ids.append(token)
        plan = Plan((Chunk(found, found.num_tokens - 1, found.num_tokens),), ())
        torch.testing.assert_close(
            graph.run(plan).logits, plain.run(plan).logits, rtol=0, atol=1e-4
        )

"""Which steps are recorded, and which of them a plan takes."""

import itertools
from collections.abc import Callable

import pytest
import torch
from serving import generation_request, reference_ids
from serving.engines import pieces
from serving.plain_kernels import PlainKernels, PlainSampler
from toys import toy_decoder, toy_tokenizer

from service.engine.gpu.buffers.cache import GpuCache
from service.engine.gpu.buffers.filling import fill
from service.engine.gpu.buffers.recorded import RECORDED_VARIANTS
from service.engine.gpu.buffers.weight_set import (
    HEAD_ROWS,
    WeightSet,
    buckets_up_to,
    decode_sizes,
    sizes_up_to,
)
from service.engine.gpu.layout import BUCKETS
from service.engine.gpu.runner import GpuRunner
from service.engine.overlapped import OverlappedEngine
from service.engine.request import TokenGenerated
from service.engine.scheduling.slots import SlotPool


@pytest.mark.parametrize(
    ("num_slots", "max_tokens", "expected"),
    [
        (1, 64, [(1, 64)]),
        (3, 1024, [(1, 1024), (2, 1024), (3, 1024)]),
        (3, 8192, [(1, 1024), (1, 8192), (2, 1024), (2, 8192), (3, 1024), (3, 8192)]),
        (16, 2048, [*itertools.product((1, 2, 4, 8), (1024, 2048)), (16, 2048)]),
    ],
    ids=str,
)
def test_few_rows_have_steps_for_short_sequences_too(
    num_slots: int, max_tokens: int, expected: list[tuple[int, int]]
) -> None:
    assert decode_sizes(num_slots, max_tokens) == expected


@pytest.mark.parametrize("num_slots", [1, 5, 8, 100, 256, 300])
def test_some_decoding_step_holds_any_number_of_rows_and_tokens(num_slots: int) -> None:
    sizes = decode_sizes(num_slots, 4096)
    assert len(set(sizes)) == len(sizes)
    assert sizes_up_to((1, 2, 256), num_slots)[-1] == num_slots
    for rows in range(1, num_slots + 1):
        for position in (0, 1023, 1024, 4095):
            fitting = [(r, t) for r, t in sizes if r >= rows and t > position]
            assert fitting, (rows, position)
            assert fitting[0] == min(fitting), "the first one is the smallest"


@pytest.mark.parametrize("most", [1, 16, 17, 64, 2048, 5000])
def test_buckets_reach_as_far_as_a_step_or_as_they_go(most: int) -> None:
    buckets = buckets_up_to(most)
    assert buckets == BUCKETS[: len(buckets)]
    assert buckets[-1].rows >= min(most, BUCKETS[-1].rows)
    assert len(buckets) == 1 or buckets[-2].rows < most


class Recorder:
    """Stands for CUDA graphs: runs a function as it is recorded, and counts."""

    def __init__(self) -> None:
        self.num_recorded = 0

    def __call__(self, compute: Callable[[], None]) -> Callable[[], None]:
        self.num_recorded += 1
        compute()
        return compute


def recorded_set(num_slots: int, max_step_tokens: int, record: Recorder) -> GpuRunner:
    decoder = toy_decoder(1).double()
    config = decoder.config
    cache = GpuCache(
        config,
        num_slots=num_slots,
        max_tokens=config.max_position_embeddings,
        dtype=torch.float64,
        device=torch.device("cpu"),
    )
    weight_set = WeightSet(
        config,
        cache.tensors,
        num_slots=num_slots,
        max_step_tokens=max_step_tokens,
        kernels=PlainKernels(),
        sampler=PlainSampler(),
        record=record,
    )
    fill(weight_set.weights, config, pieces(decoder, torch.float64))
    return GpuRunner(weight_set, cache, SlotPool(num_slots))


def test_every_step_and_draw_is_recorded_once_and_serving_records_nothing() -> None:
    record = Recorder()
    runner = recorded_set(num_slots=5, max_step_tokens=20, record=record)
    decodes, flats, heads = 4, 2, len(HEAD_ROWS)
    with_draws = decodes + heads
    assert record.num_recorded == with_draws * (1 + len(RECORDED_VARIANTS)) + flats
    engine = OverlappedEngine(runner, toy_tokenizer(), max_step_tokens=20)
    before = record.num_recorded
    for number in range(7):
        engine.submit(generation_request(str(number), tuple(range(1, 9 + number))))
    while not engine.is_idle:
        engine.step()
    assert record.num_recorded == before


def test_more_prompts_than_a_step_holds_are_answered_as_each_would_be() -> None:
    """256 prompts in one plan are four flat steps of one size; none takes another's outputs."""
    decoder = toy_decoder(1).double()
    runner = recorded_set(num_slots=256, max_step_tokens=512, record=Recorder())
    engine = OverlappedEngine(runner, toy_tokenizer(), max_step_tokens=512, speculation=False)
    requests = [
        generation_request(str(n), (1 + n, 2 + n % 31), max_new_tokens=2) for n in range(256)
    ]
    answers: dict[str, list[int]] = {request.request_id: [] for request in requests}
    for request in requests:
        engine.submit(request)
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, TokenGenerated):
                answers[event.request_id].append(event.token_id)
    for request in requests[::17]:
        assert answers[request.request_id] == reference_ids(decoder, request), request.request_id

"""Packed weights are the same however they came, and those of the config or none."""

import contextlib
import itertools
import os
import random
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from serving.native import ISAS, PRECISIONS, native_config, open_native
from toys import toy_config, toy_decoder

from lm.model.config import ModelConfig
from service.engine.native.packing import PackedWeights, Packer, pack, pack_matrix
from service.observe.thread_priority import give_way


def packed_bytes_of(packed: PackedWeights) -> list[bytes]:
    tensors = [part for part in packed.memory if isinstance(part, torch.Tensor)]
    assert len(tensors) > 3
    return [tensor.view(torch.uint8).numpy().tobytes() for tensor in tensors]


def untied() -> ModelConfig:
    """Its vocabulary is no multiple of 32: the last panel is padded."""
    return toy_config(
        tie_word_embeddings=False, num_attention_heads=2, num_key_value_heads=1, vocab_size=301
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("config", [native_config(), untied()], ids=["tied", "untied"])
def test_order_and_pieces_do_not_matter(isa: str, precision: str, config: ModelConfig) -> None:
    library = open_native(isa)
    weights = toy_decoder(5, config).state_dict()
    rng = random.Random(0)
    pieces = []
    for name, weight in weights.items():
        cuts = sorted({0, len(weight), *(rng.randrange(len(weight)) for _ in range(3))})
        pieces += [(name, start, weight[start:end]) for start, end in itertools.pairwise(cuts)]
    rng.shuffle(pieces)
    packer = Packer(config, precision, library)
    for piece in pieces:
        packer.add(*piece)
    expected = packed_bytes_of(pack(config, weights, precision, library))
    assert packed_bytes_of(packer.finish()) == expected


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_threads_do_not_matter(isa: str, precision: str) -> None:
    """The weight is large enough for two threads in 8 and 16 bits, and for dozens in 4."""
    library, before = open_native(isa), torch.get_num_threads()
    weight = torch.randn(8205, 576, generator=torch.Generator().manual_seed(0))
    packed = []
    try:
        for threads in (1, 2, 5, 400):
            torch.set_num_threads(threads)
            packed.append(pack_matrix(library, weight, precision))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, packed[0]) for one in packed)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a nice value a thread")
def test_threads_that_pack_give_way_as_their_caller_does() -> None:
    library, weight = open_native(), torch.zeros(8192, 576)
    has_given_way, is_over = threading.Event(), threading.Event()

    def load() -> None:
        give_way(3)
        has_given_way.set()
        while not is_over.is_set():
            pack_matrix(library, weight, "int4")

    loading = threading.Thread(target=load)
    loading.start()
    has_given_way.wait()
    before, nices = thread_ids(), dict[int, int]()
    assert loading.native_id is not None
    expected = os.getpriority(os.PRIO_PROCESS, loading.native_id)
    deadline = time.monotonic() + 30.0
    while len(nices) < 4 and time.monotonic() < deadline:
        for thread in thread_ids() - before:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                nices[thread] = os.getpriority(os.PRIO_PROCESS, thread)
    is_over.set()
    loading.join()
    assert len(nices) >= 4
    assert expected > os.getpriority(os.PRIO_PROCESS, 0)
    assert set(nices.values()) == {expected}


def thread_ids() -> set[int]:
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


@pytest.mark.parametrize("change", ["missing", "part", "extra", "long", "wide", "vector"])
def test_weights_of_another_config_are_refused_by_name(change: str) -> None:
    weights = toy_decoder(5, native_config()).state_dict()
    name = "model.layers.1.mlp.up_proj.weight"
    if change == "missing":
        del weights[name]
    elif change == "part":
        weights[name] = weights[name][:-1]
    elif change == "extra":
        name = "model.layers.7.mlp.up_proj.weight"
        weights[name] = torch.zeros(2)
    elif change == "long":
        weights[name] = torch.zeros(321, 96)
    elif change == "wide":
        weights[name] = torch.zeros(320, 97)
    else:
        weights[name] = torch.zeros(320)
    with pytest.raises(ValueError, match=rf"do not fit the config: {name}"):
        pack(native_config(), weights, "int8", open_native())

"""Kernels where they can serve, PyTorch elsewhere, and a clear word where neither may."""

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
from serving import generation_request, pieces
from serving.native import native_config, open_native
from toys import publish_toy, toy_config, toy_decoder, toy_tokenizer

from service.engine.native.runner import NativeRunner
from service.engine.pytorch.runner import Runner, StepRunner
from service.engine.request import TokenGenerated
from service.engine.scheduling.plan import Chunk, Plan
from service.engine.scheduling.sequence import Sequence
from service.models.kernels import backend
from service.models.kernels.backend import Backend, BackendOptions, Choice
from service.models.kernels.native import NoKernels
from service.models.loading.loader import Loader, LoaderOptions
from service.models.refused import CheckpointRefused
from service.observe import memory


def backend_options(dtype: str = "auto", name: str = "auto", device: str = "cpu") -> BackendOptions:
    return BackendOptions(
        device=torch.device(device),
        dtype=dtype,
        backend=name,
        threads=1,
        num_slots=2,
        max_step_tokens=16,
    )


def make_backend(dtype: str = "auto", name: str = "auto", device: str = "cpu") -> Backend:
    return Backend(backend_options(dtype, name, device))


def no_kernels(**_: object) -> None:
    raise NoKernels("no C++ compiler: install g++ for the native kernels")


@pytest.mark.parametrize(
    ("dtype", "name", "precision", "is_native"),
    [
        ("auto", "auto", "int8", True),
        ("auto", "native", "int8", True),
        ("int4", "auto", "int4", True),
        ("bfloat16", "auto", "bfloat16", True),
        ("bfloat16", "torch", "bfloat16", False),
        ("float32", "auto", "float32", False),
        ("float64", "torch", "float64", False),
    ],
)
def test_the_kernels_serve_what_they_can(
    dtype: str, name: str, precision: str, is_native: bool
) -> None:
    isa = open_native().isa and backend.open_library(threads=1).isa
    made = make_backend(dtype, name)
    choice = made.choose(native_config())
    assert choice.precision == precision
    assert choice.name == (f"native {isa}" if is_native else "torch")
    assert choice.load_dtype == (torch.float32 if is_native else getattr(torch, precision))
    config = native_config()
    runner = made.runner(config, pieces(toy_decoder(0, config), choice.load_dtype), choice, 64)
    assert isinstance(runner, NativeRunner if is_native else Runner)
    assert (runner.cache.num_slots, runner.cache.max_tokens) == (2, 64)
    assert runner.score([1, 2, 3]).shape == (3, 300)


def test_models_of_both_kinds_take_turns_each_with_its_own_threads() -> None:
    """In the engine's one thread, where the kernels want PyTorch to stay out of their way."""
    open_native()
    options = dataclasses.replace(backend_options("bfloat16"), threads=2)
    made = Backend(options)
    runners = []
    for config in (toy_config(), native_config()):
        choice = made.choose(config)
        weights = pieces(toy_decoder(0, config), choice.load_dtype)
        runners.append(made.runner(config, weights, choice, 64))
    sequence = Sequence(generation_request("a", (1, 2, 3)), toy_tokenizer())
    sequence.slot = 0
    plan = Plan((Chunk(sequence, 0, 3),), ())

    def threads_after(runner: StepRunner) -> int:
        assert runner.run(plan).is_finite == (True,)
        return torch.get_num_threads()

    before = torch.get_num_threads()
    try:
        counts = [threads_after(runner) for runner in (*runners, *runners)]
    finally:
        torch.set_num_threads(before)
    assert counts == [2, 1, 2, 1]


def test_another_shape_is_left_to_torch() -> None:
    choice = make_backend("bfloat16").choose(toy_config())
    assert choice == Choice(precision="bfloat16")


def test_a_gpu_says_why_its_fused_kernels_do_not_compute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Reasons that are known without a card; asking for none of them needs one."""
    config = toy_config()
    by_dtype = make_backend("float32", device="cuda").choose(config)
    assert (by_dtype.name, by_dtype.not_fused) == ("torch", "weights are float32, not bfloat16")
    by_setting = make_backend("bfloat16", "torch", "cuda").choose(config)
    assert (by_setting.name, by_setting.not_fused) == ("torch", "backend is set to torch")
    learned = toy_config(positions="learned")
    by_shape = make_backend("bfloat16", device="cuda").choose(learned)
    assert by_shape.not_fused == "the model is not of the plain Llama shape"
    made = make_backend("bfloat16", device="cuda")
    with caplog.at_level(logging.WARNING):
        made.refuse_fused("logits are 90% of their norm away from the definition")
    refused = made.choose(config)
    assert not refused.is_fused
    assert refused.not_fused == "logits are 90% of their norm away from the definition"
    assert refused.not_fused in caplog.text
    assert make_backend("bfloat16").choose(config).not_fused is None, "a CPU has none to miss"


@pytest.mark.parametrize(("dtype", "name"), [("int8", "auto"), ("auto", "native")])
def test_another_shape_is_refused_where_only_kernels_will_do(dtype: str, name: str) -> None:
    open_native()
    with pytest.raises(CheckpointRefused, match="head_dim 16 is no multiple of 32") as refused:
        make_backend(dtype, name).choose(toy_config())
    assert refused.value.reason == "unsupported"


@pytest.mark.parametrize(
    ("dtype", "name", "device"),
    [("float32", "native", "cpu"), ("int8", "torch", "cpu"), ("int8", "auto", "meta")],
)
def test_settings_that_contradict_each_other_are_refused(
    dtype: str, name: str, device: str
) -> None:
    with pytest.raises(ValueError, match=f"dtype {dtype}, backend {name} do not go together"):
        make_backend(dtype, name, device)


def test_without_kernels_torch_serves_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backend, "open_library", no_kernels)
    with caplog.at_level(logging.INFO):
        choice = make_backend().choose(native_config())
    assert choice.name == "torch"
    assert choice.precision in {"float32", "bfloat16"}
    assert "without native kernels: no C++ compiler" in caplog.text


@pytest.mark.parametrize(("dtype", "name"), [("int4", "auto"), ("auto", "native")])
def test_kernels_that_are_asked_for_must_be_there(
    monkeypatch: pytest.MonkeyPatch, dtype: str, name: str
) -> None:
    monkeypatch.setattr(backend, "open_library", no_kernels)
    with pytest.raises(ValueError, match="no C\\+\\+ compiler"):
        make_backend(dtype, name)


def test_a_step_is_served_through_the_kernels(tmp_path: Path) -> None:
    open_native()
    step = publish_toy(tmp_path, "toy", 1, config=native_config(), seed=4)
    options = LoaderOptions(
        backend=backend_options(),
        max_model_tokens=None,
        verify_hashes=True,
        measure_bits_per_byte=True,
    )
    model = Loader(options).load(step)
    assert model.dtype == "int8"
    assert model.backend.startswith("native avx")
    assert model.bits_per_byte is not None
    assert 0 < model.bits_per_byte < 20
    model.engine.submit(generation_request("a", tuple(range(1, 40)), max_new_tokens=6))
    events = []
    while not model.engine.is_idle:
        events += model.engine.step()
    assert sum(isinstance(event, TokenGenerated) for event in events) in range(1, 7)


@pytest.mark.parametrize(
    ("slots_in_memory", "expected"), [(None, 2), (9.0, 2), (2.6, 2), (2.4, 1), (0.1, 1)], ids=str
)
def test_a_gpu_s_cache_leaves_memory_to_the_model_that_will_take_over(
    slots_in_memory: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config()
    slot_bytes = 64 * config.kv_bytes_per_token(2)
    free = 10**12 if slots_in_memory is None else int(2 * slots_in_memory * slot_bytes)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**12))
    made = make_backend("float64", "torch")
    made._options = dataclasses.replace(made._options, device=torch.device("cuda"))
    assert made._num_slots(config, 64, 2) == expected


@pytest.mark.parametrize(
    ("slots_in_memory", "expected"), [(None, 2), (9.0, 2), (2.6, 2), (2.4, 1), (0.1, 1)], ids=str
)
def test_a_cache_is_no_larger_than_memory_could_hold_full(
    slots_in_memory: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config()
    slot_bytes = 64 * config.kv_bytes_per_token(8)
    available = None if slots_in_memory is None else int(slots_in_memory * slot_bytes)
    monkeypatch.setattr(memory, "available_bytes", lambda: available)
    made = make_backend("float64", "torch")
    weights = pieces(toy_decoder(0, config), torch.float64)
    runner = made.runner(config, weights, made.choose(config), 64)
    assert runner.cache.num_slots == expected

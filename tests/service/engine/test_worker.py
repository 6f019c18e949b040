"""The worker's thread, driven step by step through a decoder that waits for permits."""

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
import torch
from serving import (
    GatedDecoder,
    gated_engine,
    generation_request,
    reference_ids,
    toy_engine,
    toy_served,
    wait_until,
)
from serving.manual_worker import Desk
from torch import Tensor
from toys import toy_decoder

from service.engine.request import Event, FinishReason
from service.engine.scheduling.sequence import Sequence
from service.engine.served_model import ServedModel
from service.engine.step_events import Answers
from service.engine.worker import Worker


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    desk.worker.start()
    yield desk
    desk.worker.stop()


def gated_model(
    *, seed: int = 0, step: int = 1, **options: int
) -> tuple[GatedDecoder, ServedModel]:
    decoder, engine = gated_engine(seed=seed, **options)
    return decoder, toy_served(engine, step=step)


def wait_for_steps(decoder: GatedDecoder, count: int) -> None:
    """Wait until the decoder is inside its step number ``count``."""
    wait_until(lambda: decoder.num_begun == count, f"step {count} begins")


def test_requests_are_served_and_everything_is_given_back(desk: Desk) -> None:
    model = toy_served()
    decoder = toy_decoder(0).double()
    desk.worker.flip(model)
    requests = [
        generation_request(str(n), tuple(range(1, 2 + n)), max_new_tokens=5) for n in range(9)
    ]
    threads = [
        threading.Thread(target=desk.worker.submit, args=(model, request)) for request in requests
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for request in requests:
        assert desk.end(request.request_id).reason is FinishReason.LENGTH
        assert desk.token_ids(request.request_id) == reference_ids(decoder, request)
    stats = desk.turns[-1].stats
    assert (stats.num_running, stats.num_waiting, stats.num_cached_tokens) == (0, 0, 0)


def test_a_failing_step_ends_its_requests_and_the_service_goes_on(desk: Desk) -> None:
    decoder, model = gated_model(num_slots=1)
    decoder.open()
    decoder.fault = RuntimeError("out of cheese")
    for name in ("running", "waiting"):
        desk.worker.submit(model, generation_request(name))
    for name in ("running", "waiting"):
        end = desk.end(name)
        assert (end.reason, end.message) == (FinishReason.ERROR, "RuntimeError, see the log")
    decoder.fault = None
    desk.worker.submit(model, generation_request("later"))
    assert desk.end("later").reason is FinishReason.LENGTH
    assert desk.token_ids("later") == reference_ids(
        toy_decoder(0).double(), generation_request("later")
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    ],
    ids=["PyTorch's", "Triton's"],
)
def test_an_error_that_the_device_keeps_ends_every_stream_and_then_the_thread(
    error: Exception,
) -> None:
    died = threading.Event()
    desk = Desk()
    desk.worker = Worker(desk.turns.append, lambda: desk.now, on_death=died.set)
    decoder, model = gated_model(num_slots=1)
    decoder.open()
    decoder.fault = error
    for name in ("running", "waiting"):
        desk.worker.submit(model, generation_request(name))
    desk.worker.start()  # both are in its first turn
    for name in ("running", "waiting"):
        assert desk.end(name).reason is FinishReason.ERROR
    assert died.wait(30)


def test_running_out_of_memory_is_no_lasting_error(desk: Desk) -> None:
    decoder, model = gated_model(num_slots=1)
    decoder.open()
    decoder.fault = torch.OutOfMemoryError("CUDA out of memory")
    desk.worker.submit(model, generation_request("first"))
    assert desk.end("first").reason is FinishReason.ERROR
    decoder.fault = None
    desk.worker.submit(model, generation_request("later"))
    assert desk.end("later").reason is FinishReason.LENGTH


def test_who_expires_in_a_failing_step_has_timed_out(desk: Desk) -> None:
    decoder, model = gated_model()
    decoder.fault = RuntimeError("out of cheese")
    desk.worker.submit(model, generation_request("blocker", max_new_tokens=50))
    wait_for_steps(decoder, 1)
    desk.now = 10.0
    desk.worker.submit(model, generation_request("late", deadline=9.0))
    desk.worker.submit(model, generation_request("other"))
    decoder.open()
    assert desk.end("blocker").reason is FinishReason.ERROR
    assert desk.end("other").reason is FinishReason.ERROR
    assert desk.end("late").reason is FinishReason.TIMEOUT


def test_a_step_that_fails_half_way_loses_nobodys_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, model = gated_model()
    append = Answers.append

    def fail_for_b(
        answers: Answers, sequence: Sequence, token_id: int, logits: Tensor
    ) -> list[Event]:
        if sequence.request_id == "b":
            raise ValueError("half way")
        return append(answers, sequence, token_id, logits)

    monkeypatch.setattr(Answers, "append", fail_for_b)
    for name, tokens in (("blocker", 9), ("a", 1), ("gone", 1), ("b", 1)):
        desk.worker.submit(model, generation_request(name, max_new_tokens=tokens))
        if name == "blocker":
            wait_for_steps(decoder, 1)
    desk.worker.abort("gone")
    decoder.open()
    end = desk.end("b")
    assert (end.reason, end.message) == (FinishReason.ERROR, "ValueError, see the log")
    for name in ("blocker", "a"):
        assert desk.end(name).reason is FinishReason.LENGTH
    assert desk.end("gone").reason is FinishReason.ABORT
    monkeypatch.undo()
    desk.worker.submit(model, generation_request("later"))
    assert desk.end("later").reason is FinishReason.LENGTH


def test_a_deadline_is_kept_in_slot_and_queue(desk: Desk) -> None:
    decoder, model = gated_model(num_slots=1)
    for name in ("running", "waiting"):
        desk.worker.submit(model, generation_request(name, max_new_tokens=50, deadline=5.0))
    wait_for_steps(decoder, 1)
    desk.now = 5.0
    decoder.release()
    for name in ("running", "waiting"):
        assert desk.end(name).reason is FinishReason.TIMEOUT
    assert len(desk.token_ids("running")) == 1
    assert desk.token_ids("waiting") == []
    assert decoder.num_begun == 1


@pytest.mark.parametrize("steps_before", [1, 3, 6], ids=["first chunk", "prefill", "decode"])
def test_an_abort_frees_the_slot_before_the_next_step(desk: Desk, steps_before: int) -> None:
    decoder, model = gated_model(num_slots=1, max_step_tokens=2)
    for _ in range(steps_before - 1):
        decoder.release()
    desk.worker.submit(model, generation_request("a", (9,) * 8, max_new_tokens=50))
    wait_for_steps(decoder, steps_before)
    desk.worker.abort("a")
    decoder.release()
    assert desk.end("a").reason is FinishReason.ABORT
    assert decoder.num_begun == steps_before
    assert desk.turns[-1].stats.num_running == 0
    assert len(desk.token_ids("a")) == max(0, steps_before - 3)


def test_an_abort_in_the_queue_takes_nothing_from_the_running(desk: Desk) -> None:
    decoder, model = gated_model(num_slots=1)
    desk.worker.submit(model, generation_request("running", max_new_tokens=3))
    wait_for_steps(decoder, 1)
    desk.worker.submit(model, generation_request("waiting"))
    desk.worker.abort("waiting")
    decoder.release(2)  # the step under way, and the one that the abort is reported with
    assert desk.end("waiting").reason is FinishReason.ABORT
    assert [event.is_final for event in desk.events("waiting")] == [True], "it never started"
    assert desk.turns[-1].stats.num_waiting == 0
    decoder.open()
    assert desk.end("running").reason is FinishReason.LENGTH


def test_aborting_who_has_ended_or_never_was_is_nothing(desk: Desk) -> None:
    model = toy_served()
    desk.worker.submit(model, generation_request("a"))
    assert desk.end("a").reason is FinishReason.LENGTH
    turns = len(desk.turns)
    desk.worker.abort("a")
    desk.worker.abort("nobody")
    wait_until(lambda: len(desk.turns) > turns, "the worker looked at it")
    assert desk.end("a").reason is FinishReason.LENGTH
    assert desk.events("nobody") == []


def test_requests_end_on_the_weights_they_began_with(desk: Desk) -> None:
    old_decoder, old = gated_model(seed=1, step=1)
    new = toy_served(toy_engine(toy_decoder(2).double()), step=2)
    requests = [generation_request(name, (8, 9), max_new_tokens=6) for name in ("old", "new")]
    desk.worker.flip(old)
    desk.worker.submit(old, requests[0])
    wait_for_steps(old_decoder, 1)
    desk.worker.flip(new)
    assert desk.worker.current is new
    desk.worker.submit(new, requests[1])
    old_decoder.open()
    for name in ("old", "new"):
        assert desk.end(name).reason is FinishReason.LENGTH
    answers = [reference_ids(toy_decoder(seed).double(), requests[0]) for seed in (1, 2)]
    assert [desk.token_ids("old"), desk.token_ids("new")] == answers
    assert answers[0] != answers[1]


@pytest.mark.parametrize("is_busy", [True, False], ids=["after its last request", "when idle"])
def test_the_old_model_is_let_go(desk: Desk, is_busy: bool) -> None:
    decoder, old = gated_model(num_slots=1)
    released = weakref.ref(decoder)
    desk.worker.flip(old)
    decoder.release(4)
    desk.worker.submit(old, generation_request("first"))
    assert desk.end("first").reason is FinishReason.LENGTH
    if is_busy:
        desk.worker.submit(old, generation_request("last"))
        wait_for_steps(decoder, 5)
    desk.worker.flip(toy_served(step=2))
    if is_busy:
        assert desk.worker.num_models == 2
        decoder.open()
        assert desk.end("last").reason is FinishReason.LENGTH
    wait_until(lambda: desk.worker.num_models == 1, "the old model is drained")
    del decoder, old
    wait_until(lambda: gc.collect() * 0 + (released() is None), "the old weights are freed")


def test_stopping_aborts_what_is_left() -> None:
    desk = Desk()
    decoder, model = gated_model(num_slots=1)
    desk.worker.start()
    for name in ("running", "waiting"):
        desk.worker.submit(model, generation_request(name, max_new_tokens=50))
    wait_for_steps(decoder, 1)
    stopping = threading.Thread(target=desk.worker.stop)
    stopping.start()
    wait_until(lambda: not desk.worker._commands.empty(), "the order to stop arrives")
    decoder.release()
    stopping.join(20)
    assert not stopping.is_alive()
    assert [desk.end(name).reason for name in ("running", "waiting")] == [FinishReason.ABORT] * 2
    assert decoder.num_begun == 1


def test_the_thread_settles_its_manners_first() -> None:
    seen: list[str] = []
    worker = Worker(
        lambda _: None, lambda: 0.0, lambda: seen.append(threading.current_thread().name)
    )
    worker.start()
    worker.stop()
    assert seen == ["engine"]

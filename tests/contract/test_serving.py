"""Volume → service process → clients, over real sockets: serve while newer checkpoints arrive.

Every step of the engine takes at least some milliseconds, so that streams last across swaps.
Texts equal the reference generator's of the very checkpoint that the answer names: no stream
mixes weights.
"""

import functools
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from serving import (
    ServiceProcess,
    Stream,
    generation_request,
    reference_ids,
    stream_generate,
    wait_until,
)
from toys import publish_toy, toy_config, toy_decoder, toy_tokenizer

from trainer.convert.importing import Described, import_model

NUM_CLIENTS = 16
STEPS = (10, 20, 30, 40, 50)
"""Each is the toy whose seed is its number."""
MAX_NEW_TOKENS = 50
PROMPTS = ("To be", "or not to be, that is the question", "Whether 'tis nobler", "a")


@pytest.fixture(scope="module", params=[{}, {"engine": "process", "http_workers": 2}], ids=str)
def processes(request: pytest.FixtureRequest) -> dict[str, object]:
    """Options that say where the engine is."""
    options: dict[str, object] = request.param
    return options


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory, processes: object) -> Path:
    return tmp_path_factory.mktemp("contract") / "volume"


@pytest.fixture(scope="module")
def service(volume: Path, processes: dict[str, object]) -> Iterator[ServiceProcess]:
    options: dict[str, Any] = {"num_slots": NUM_CLIENTS, **processes}
    with ServiceProcess(volume, step_delay_s=0.004, **options) as service:
        yield service


@functools.cache
def reference_text(prompt: str, step: int) -> str:
    request = generation_request(
        "a", tuple(toy_tokenizer().encode(prompt)), max_new_tokens=MAX_NEW_TOKENS
    )
    return toy_tokenizer().decode(reference_ids(toy_decoder(step).double(), request))


def greedy_stream(service: ServiceProcess, prompt: str) -> Stream:
    return stream_generate(
        service.client, prompt=prompt, max_new_tokens=MAX_NEW_TOKENS, temperature=0
    )


def check_answer(stream: Stream, prompt: str) -> int:
    """The stream is whole, names one checkpoint and is that one's; returns its step."""
    assert stream.status == 200
    assert stream.is_done
    assert stream.final["finish_reason"] in ("length", "stop")
    checkpoint = stream.final["checkpoint"]
    provenance = f"{checkpoint['name']};fingerprint={checkpoint['fingerprint']}"
    assert stream.headers["x-nestling-checkpoint"] == provenance
    assert stream.text == reference_text(prompt, checkpoint["step"])
    step: int = checkpoint["step"]
    return step


def test_a_service_lives_through_a_training_run(service: ServiceProcess, volume: Path) -> None:
    """From an empty volume, through five checkpoints, under constant streams."""
    for prompt in PROMPTS:  # before sixteen threads ask for the same
        for step in STEPS:
            reference_text(prompt, step)
    assert service.client.get("/healthz").status_code == 200
    ready = service.client.get("/readyz")
    assert ready.status_code == 503
    assert "no run with a complete checkpoint" in ready.json()["reason"]
    assert service.client.post("/generate", json={"prompt": "a"}).status_code == 503

    publish_toy(volume, "toy", STEPS[0], seed=STEPS[0])
    service.wait_serving(f"toy@{STEPS[0]}")

    is_over = threading.Event()
    newest = STEPS[0]
    answers: list[tuple[int, int]] = []
    """Steps that answered, each with the newest one at the answer's end."""

    def has_answered(step: int) -> bool:
        return any(step == answered for answered, _ in answers)

    def keep_streaming(number: int) -> None:
        prompt = PROMPTS[number % len(PROMPTS)]
        while not is_over.is_set():
            answers.append((check_answer(greedy_stream(service, prompt), prompt), newest))

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        clients = [pool.submit(keep_streaming, number) for number in range(NUM_CLIENTS)]
        try:
            for step in STEPS[1:]:
                wait_until(functools.partial(has_answered, newest), f"{newest} answers")
                publish_toy(volume, "toy", step, seed=step)
                service.wait_serving(f"toy@{step}")
                newest = step
        finally:
            is_over.set()
        for client in clients:
            client.result()
    answers.append((check_answer(greedy_stream(service, "a"), "a"), newest))

    assert {step for step, _ in answers} == set(STEPS)
    across = [step for step, newest_then in answers if step < newest_then]
    assert len(across) >= NUM_CLIENTS, "streams went on across the swaps"
    metrics = service.metrics()
    outcomes = metrics.by_label("requests_total", "outcome")
    assert outcomes["length"] + outcomes["stop"] == len(answers)
    assert sum(outcomes.values()) == len(answers), "nothing failed"
    assert metrics.value("checkpoint_swaps_total") == len(STEPS)
    assert metrics.by_label("checkpoint_info", "step") == {str(STEPS[-1]): 1}
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_ratio"):
        assert metrics.value(name) == 0


def test_every_answer_names_its_checkpoint(service: ServiceProcess, volume: Path) -> None:
    publish_toy(volume, "toy", 60, seed=60)
    service.wait_serving("toy@60")
    body = {"prompt": "To be", "max_new_tokens": MAX_NEW_TOKENS, "temperature": 0}
    response = service.client.post("/generate", json=body)
    answer = response.json()
    assert answer["checkpoint"]["name"] == "toy@60"
    provenance = f"toy@60;fingerprint={answer['checkpoint']['fingerprint']}"
    assert response.headers["x-nestling-checkpoint"] == provenance
    assert answer["text"] == reference_text("To be", 60)
    assert service.client.get("/version").json()["checkpoint"] == answer["checkpoint"]
    listed = service.client.get("/checkpoints").json()["checkpoints"]
    assert [(one["step"], one["status"]) for one in listed][-1] == (60, "served")


def test_each_request_has_a_line_in_the_log_and_none_says_what_it_was(
    service: ServiceProcess, volume: Path
) -> None:
    publish_toy(volume, "toy", 70, seed=70)
    service.wait_serving("toy@70")
    secret = "my password is swordfish"
    response = service.client.post("/generate", json={"prompt": secret, "max_new_tokens": 3})
    request_id = response.headers["x-request-id"]
    (line,) = [line for line in service.log().splitlines() if request_id in line]
    entry = json.loads(line)
    assert (entry["model"], entry["route"], entry["outcome"]) == ("toy@70", "/generate", "length")
    assert (entry["generated_tokens"], entry["client_gone"]) == (3, False)
    assert 0 < entry["queue_s"] < entry["ttft_s"] < entry["total_s"]
    assert "swordfish" not in service.log()
    assert "Traceback" not in service.log()


def test_a_float16_import_answers_as_its_weights_do_upcast(
    service: ServiceProcess, volume: Path, tmp_path: Path
) -> None:
    """trainer import → volume → service, from another training loop's file."""
    source = tmp_path / "checkpoint_step_80.pt"
    torch.save({"model_state_dict": toy_decoder(80).state_dict()}, source)
    described = Described(config=toy_config(), tokenizer=toy_tokenizer())
    step = import_model(str(source), volume, run="toy", dtype="float16", described=described)
    assert step.name == "toy@80"
    service.wait_serving(step.name)
    body = {"prompt": "To be", "max_new_tokens": MAX_NEW_TOKENS, "temperature": 0}
    answer = service.client.post("/generate", json=body).json()
    request = generation_request(
        "a", tuple(toy_tokenizer().encode("To be")), max_new_tokens=MAX_NEW_TOKENS
    )
    upcast = reference_ids(toy_decoder(80).half().double(), request)
    assert answer["text"] == toy_tokenizer().decode(upcast)
    assert answer["checkpoint"]["name"] == step.name

"""The same requests to a service with its engine in a thread, and to one with it in a process.

Both serve the same steps in float64, so that whole answers are equal, refusals too.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from serving import ServiceProcess, wait_until
from toys import publish_toy

ADMIN, CLIENT = "the-admin-key", "a-client-key"
OF_ITS_MOMENT = {"timings", "id", "created", "at", "backend", "load_s"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}

ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "whole": ("/generate", {"prompt": "To be", "max_new_tokens": 9, "seed": 3}),
    "stop": ("/generate", {"prompt": "ab", "max_new_tokens": 60, "seed": 1, "stop": ["e", "a"]}),
    "scores": ("/generate", {"prompt": "ab", "max_new_tokens": 3, "seed": 1, "logprobs": 2}),
    "prompt": (
        "/generate",
        {"prompt": "abc", "max_new_tokens": 0, "seed": 1, "prompt_logprobs": 1},
    ),
    "several": ("/generate", {"prompt": "ab", "max_new_tokens": 5, "seed": 1, "n": 3}),
    "named": ("/generate", {"prompt": "ab", "max_new_tokens": 5, "seed": 1, "model": "toy@1"}),
    "structure": ("/generate", {"prompt": "a", "max_new_tokens": 20, "seed": 1, "schema": SCHEMA}),
    "unknown": ("/generate", {"prompt": "ab", "model": "toy@7"}),
    "too long": ("/generate", {"prompt": "ab", "max_new_tokens": 9999}),
    "too many": ("/generate", {"prompt": "ab", "n": 64, "max_new_tokens": 1}),
    "unknown field": ("/generate", {"prompt": "ab", "temprature": 1}),
    "completions": ("/v1/completions", {"model": "toy", "prompt": ["ab", "cd"], "seed": 1}),
    "chat": (
        "/v1/chat/completions",
        {"model": "latest", "messages": [{"role": "user", "content": "ab"}], "seed": 1},
    ),
    "tgi": ("/generate", {"inputs": "ab", "parameters": {"max_new_tokens": 4, "seed": 1}}),
    "tokens": ("/tokenize", {"prompt": "To be"}),
    "text": ("/detokenize", {"tokens": [5, 6, 7]}),
    "large": ("/checkpoints/reload", {"model": "x" * (1 << 21)}),
}
SEEN = (
    "/readyz",
    "/healthz",
    "/version",
    "/info",
    "/checkpoints",
    "/v1/models",
    "/v1/models/toy@1",
)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServiceProcess]]:
    volume = tmp_path_factory.mktemp("modes") / "volume"
    for step in (1, 2):
        publish_toy(volume, "toy", step, seed=step)
    options = {"admin_key": ADMIN, "api_keys": CLIENT, "num_slots": 4, "max_waiting_requests": 8}
    modes: list[dict[str, Any]] = [{}, {"engine": "process", "http_workers": 2}]
    with ExitStack() as stack:
        running = [stack.enter_context(ServiceProcess(volume, **options | mode)) for mode in modes]
        for service in running:
            service.client.headers["authorization"] = f"Bearer {CLIENT}"
            service.wait_serving("toy@2")
        yield running


def lasting(said: Any) -> Any:
    """A body without what is of its moment."""
    if isinstance(said, dict):
        return {name: lasting(one) for name, one in said.items() if name not in OF_ITS_MOMENT}
    return [lasting(one) for one in said] if isinstance(said, list) else said


def body_of(answer: httpx.Response) -> Any:
    """What it says; of a stream, each answer's events in order, the first answer's first."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return lasting(answer.json())
    frames = answer.text.split("\n\n")
    events = [lasting(json.loads(one[6:])) for one in frames if one.startswith("data: {")]
    return [
        *sorted(events, key=lambda event: event.get("index", 0) or index_of_choice(event)),
        *(frame for frame in frames if not frame.startswith("data: {")),
    ]


def index_of_choice(event: dict[str, Any]) -> int:
    """Of a chunk in OpenAI's shape."""
    choices = event.get("choices") or [{"index": 0}]
    index: int = choices[0]["index"]
    return index


def compare(answers: list[httpx.Response]) -> None:
    one, other = answers
    assert one.status_code == other.status_code
    assert body_of(one) == body_of(other)
    assert one.headers.keys() == other.headers.keys()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", ASKED)
def test_answers_are_the_same(services: list[ServiceProcess], name: str, stream: bool) -> None:
    path, body = ASKED[name]
    if stream and path in ("/tokenize", "/detokenize", "/checkpoints/reload"):
        pytest.skip("it does not stream")
    asked = body | ({"stream": True} if stream else {})
    compare([service.client.post(path, json=asked) for service in services])


@pytest.mark.parametrize("path", SEEN)
def test_what_can_be_seen_is_the_same(services: list[ServiceProcess], path: str) -> None:
    compare([service.client.get(path) for service in services])


def test_who_may_not_is_refused_alike(services: list[ServiceProcess]) -> None:
    for path in ("/checkpoints", "/generate", "/nowhere", "/v1/models/nope/more"):
        for key in ("Bearer wrong", f"Bearer {CLIENT}"):
            headers = {"authorization": key}
            compare([one.client.post(path, headers=headers, json={}) for one in services])


def test_a_step_is_held_and_followed_again_alike(services: list[ServiceProcess]) -> None:
    for key, body in (
        (CLIENT, {"model": "toy@1", "pin": True}),
        (ADMIN, {"model": "toy@1", "pin": True}),
        (ADMIN, {}),
    ):
        headers = {"authorization": f"Bearer {key}"}
        path = "/checkpoints/reload"
        compare([one.client.post(path, json=body, headers=headers) for one in services])
        wait_until(  # what was replaced leaves memory at the next look
            lambda: len({one.client.get("/checkpoints").text for one in services}) == 1,
            "both list the same",
        )
        asked = {"prompt": "To be", "max_new_tokens": 5, "seed": 1}
        compare([one.client.post("/generate", json=asked) for one in services])


def test_the_same_is_counted(services: list[ServiceProcess]) -> None:
    names = ("requests_total", "admission_rejections_total", "generation_tokens_total")
    counted = [
        {
            (sample.name, *sample.labels.values()): sample.value
            for sample in service.metrics().samples
            if sample.name.removeprefix("nestling_") in names
            or (sample.name.endswith("_count") and "loop_lag" not in sample.name)
        }
        for service in services
    ]
    assert counted[0].keys() == counted[1].keys()
    exact = [name for name in counted[0] if "load" not in name[0] and "batch" not in name[0]]
    assert {name: counted[0][name] for name in exact} == {name: counted[1][name] for name in exact}

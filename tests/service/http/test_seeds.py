"""A seed gives one text: on every route, alone or in company, streamed or not, after a restart."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serving import LiveService, toy_settings
from toys import publish_toy

SAMPLED = {"temperature": 0.9, "top_p": 0.95, "seed": 5}
OPENAI = {**SAMPLED, "max_tokens": 12, "min_p": 0.01, "presence_penalty": 0.5, "n": 2}
PARAMETERS = {**SAMPLED, "max_new_tokens": 12, "repetition_penalty": 1.2}
ASKED: dict[str, dict[str, Any]] = {
    "/generate": {**OPENAI, "prompt": "To be", "n": 3},
    "/v1/completions": {**OPENAI, "prompt": ["To be", "or not to be"]},
    "/v1/chat/completions": {**OPENAI, "messages": [{"role": "user", "content": "To be?"}]},
    "/": {"inputs": "To be", "parameters": PARAMETERS},
}


def texts_of(service: LiveService, route: str, *, stream: bool) -> list[str]:
    """All answers of a route to its question."""
    response = service.client.post(route, json=ASKED[route] | {"stream": stream})
    assert response.status_code == 200, response.text
    if not stream:
        whole = response.json()
        return [text_in(one) for one in (whole if route == "/" else whole["choices"])]
    texts: dict[int, str] = {}
    for frame in response.text.split("\n\n"):
        if "{" not in frame:
            continue
        event = json.loads(frame.removeprefix("data: "))
        if route == "/":
            event = {"text": event["token"]["text"]}
        for one in event.get("choices", [event]):
            index = one.get("index", 0)
            texts[index] = texts.get(index, "") + text_in(one)
    return [texts[index] for index in sorted(texts)]


def text_in(one: dict[str, Any]) -> str:
    """Text of an answer or of a piece of one, whatever its shape."""
    said = one.get("message") or one.get("delta") or one
    text: str = said.get("text") or said.get("content") or said.get("generated_text") or ""
    return text


@pytest.mark.parametrize("other", [{"num_slots": 1}, {"num_slots": 16, "max_step_tokens": 64}])
def test_a_seed_gives_the_same_texts_after_a_restart(tmp_path: Path, other: dict[str, Any]) -> None:
    publish_toy(tmp_path, "toy", 7, seed=7)
    with LiveService(toy_settings(tmp_path)) as service:
        service.wait_ready()
        alone = {route: texts_of(service, route, stream=False) for route in ASKED}
    assert [len(texts) for texts in alone.values()] == [3, 4, 2, 1]
    assert all(len(set(texts)) == len(texts) for texts in alone.values()), "seeds count up"
    with LiveService(toy_settings(tmp_path, **other)) as restarted, ThreadPoolExecutor(16) as pool:
        restarted.wait_ready()
        together = {
            (route, stream, time): pool.submit(texts_of, restarted, route, stream=stream)
            for time in range(2)
            for stream in (False, True)
            for route in ASKED
        }
        for (route, _, _), texts in together.items():
            assert texts.result() == alone[route], route

"""OpenAI's own Python client: sync, async, streamed, and the exceptions that it raises."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel
from serving import LiveService

PROMPT = "To be, or not"
CHAT: list[ChatCompletionMessageParam] = [{"role": "user", "content": "To be?"}]


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def own(service: LiveService, **body: Any) -> str:
    text: str = service.client.post("/generate", json=body).json()["text"]
    return text


def test_completions(service: LiveService, client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="toy", prompt=PROMPT, max_tokens=8, seed=3, n=2, logprobs=2, echo=True
    )
    expected = own(service, prompt=PROMPT, max_new_tokens=8, seed=3)
    assert answer.choices[0].text == PROMPT + expected
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    assert answer.model == "toy@7"
    assert answer.system_fingerprint is not None
    assert answer.system_fingerprint.startswith("toy@7:")
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens


def test_chats(service: LiveService, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="latest",
        messages=CHAT,
        max_completion_tokens=8,
        seed=3,
        logprobs=True,
        top_logprobs=2,
        extra_body={"top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1},
    )
    expected = own(
        service,
        prompt="User: To be?\n\nAssistant:",
        max_new_tokens=8,
        seed=3,
        top_k=40,
        min_p=0.01,
        repetition_penalty=1.1,
    )
    (choice,) = answer.choices
    assert choice.message.content == expected
    assert choice.message.role == "assistant"
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert len(choice.logprobs.content[0].top_logprobs) == 2
    client.chat.completions.create(  # an answer can be sent back as it came
        model="latest",
        messages=[*CHAT, choice.message, *CHAT],
        max_tokens=1,  # type: ignore[list-item]
    )


def test_streams(service: LiveService, client: openai.OpenAI) -> None:
    pieces, usage = [], None
    with client.chat.completions.create(
        model="latest",
        messages=CHAT,
        max_tokens=8,
        seed=3,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            pieces += [choice.delta.content or "" for choice in chunk.choices]
    prompt = "User: To be?\n\nAssistant:"
    assert "".join(pieces) == own(service, prompt=prompt, max_new_tokens=8, seed=3)
    assert usage is not None
    assert usage.completion_tokens == 8
    completion = client.completions.create(
        model="latest", prompt=PROMPT, max_tokens=8, seed=3, stream=True
    )
    texts = [choice.text for chunk in completion for choice in chunk.choices]
    assert "".join(texts) == own(service, prompt=PROMPT, max_new_tokens=8, seed=3)


def test_many_async_streams_at_once(service: LiveService, address: str) -> None:
    async def one(client: openai.AsyncOpenAI, seed: int) -> str:
        stream = await client.completions.create(
            model="latest", prompt=PROMPT, max_tokens=8, seed=seed, stream=True
        )
        return "".join([choice.text async for chunk in stream for choice in chunk.choices])

    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none") as client:
            return await asyncio.gather(*(one(client, seed) for seed in range(8)))

    expected = [own(service, prompt=PROMPT, max_new_tokens=8, seed=seed) for seed in range(8)]
    assert asyncio.run(main()) == expected


class Answer(BaseModel):
    yes: bool


class Person(BaseModel):
    name: str
    age: int
    tags: list[str]


@pytest.mark.parametrize("seed", range(4))
def test_a_parsed_answer_is_never_cut_off(client: openai.OpenAI, seed: int) -> None:
    answer = client.chat.completions.parse(
        model="latest",
        messages=CHAT,
        response_format=Person,
        max_tokens=40,
        seed=seed,
        temperature=1.5,
    )
    assert isinstance(answer.choices[0].message.parsed, Person)
    assert answer.choices[0].finish_reason == "stop"


def test_a_parsed_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="latest", messages=CHAT, response_format=Answer, max_tokens=40
    )
    assert isinstance(answer.choices[0].message.parsed, Answer)
    raw = client.chat.completions.create(
        model="latest", messages=CHAT, response_format={"type": "json_object"}, max_tokens=200,
        extra_body={"logit_bias": {"93": 20}},
    )  # fmt: skip
    content = raw.choices[0].message.content
    assert content is not None
    if raw.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)


def test_models(client: openai.OpenAI) -> None:
    assert {"toy", "toy@7", "latest"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("toy@7").owned_by == "nestling"


def test_errors_are_the_exceptions_that_it_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as bad:
        client.completions.create(model="latest", prompt=PROMPT, temperature=101)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nobody", messages=CHAT, stream=True)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        client.chat.completions.create(
            model="latest",
            messages=CHAT,
            tools=[{"type": "function", "function": {"name": "f"}}],
        )
    with pytest.raises(openai.BadRequestError, match="256"):
        client.completions.create(model="latest", prompt=PROMPT, max_tokens=9999)

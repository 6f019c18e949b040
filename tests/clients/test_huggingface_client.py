"""Hugging Face's ``InferenceClient``: TGI's protocol at the root, and OpenAI's for chats."""

from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError
from serving import LiveService

PROMPT = "To be, or not"


@pytest.fixture
def client(address: str) -> InferenceClient:
    return InferenceClient(address)


def own(service: LiveService, **body: Any) -> str:
    text: str = service.client.post("/generate", json={"prompt": PROMPT, **body}).json()["text"]
    return text


def test_text_generation(service: LiveService, client: InferenceClient) -> None:
    expected = own(service, max_new_tokens=8, seed=3)
    asked: dict[str, Any] = {"max_new_tokens": 8, "seed": 3, "do_sample": True}
    assert client.text_generation(PROMPT, **asked) == expected
    full = client.text_generation(PROMPT, **asked, return_full_text=True)
    assert full == PROMPT + expected
    details = client.text_generation(PROMPT, **asked, details=True, decoder_input_details=True)
    assert details.generated_text == expected
    assert details.details is not None
    assert len(details.details.tokens) == 8
    assert details.details.finish_reason == "length"


def test_streamed_text_generation(service: LiveService, client: InferenceClient) -> None:
    expected = own(service, max_new_tokens=8, seed=3)
    asked: dict[str, Any] = {"max_new_tokens": 8, "seed": 3, "do_sample": True}
    assert "".join(client.text_generation(PROMPT, **asked, stream=True)) == expected
    *_, last = client.text_generation(PROMPT, **asked, stream=True, details=True)
    assert last.generated_text == expected
    assert last.details is not None
    assert last.details.generated_tokens == 8


def test_its_errors(client: InferenceClient) -> None:
    with pytest.raises(ValidationError, match="256"):
        client.text_generation(PROMPT, max_new_tokens=9999)
    with pytest.raises(ValidationError, match="typical_p is not supported"):
        client.text_generation(PROMPT, typical_p=0.5)


def test_chat_completion(service: LiveService, client: InferenceClient) -> None:
    chat = [{"role": "user", "content": "To be?"}]
    answer = client.chat_completion(chat, max_tokens=8, seed=3)
    body = {"prompt": "User: To be?\n\nAssistant:", "max_new_tokens": 8, "seed": 3}
    assert answer.choices[0].message.content == own(service, **body)
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat_completion(chat, max_tokens=8, seed=3, stream=True)
    ]
    assert "".join(pieces) == own(service, **body)


def test_what_serves_and_whether_it_does(service: LiveService, address: str) -> None:
    assert service.client.get("/health").status_code == 200
    client = InferenceClient(model=address, provider="hf-inference")
    assert client.health_check() is True
    info = client.get_endpoint_info()
    assert info["model_id"] == "toy@7"
    assert info["max_total_tokens"] == info["max_input_tokens"] + 1 == 256

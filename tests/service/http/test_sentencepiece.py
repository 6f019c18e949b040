"""A SentencePiece vocabulary over HTTP: spaces, stop strings, echo and offsets are the text's."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving import LiveService, toy_settings
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, processors
from toys import publish_toy

from lm.text.tokenizer import Tokenizer

WORDS = ["▁Once", "▁upon", "▁a", "▁"]


def sentence_piece() -> Tokenizer:
    """As Llama 2's: ``<s>`` begins a text, a space too, and bytes spell what has no token."""
    letters = sorted({letter for word in WORDS for letter in word} - {"▁"})
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    backend = Backend(
        models.Unigram(
            [(token, -float(rank)) for rank, token in enumerate([*tokens, *letters])],
            unk_id=0,
            byte_fallback=True,
        )
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return Tokenizer(backend, bos_token_id=1, eos_token_ids=[2])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    volume = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 1, tokenizer=sentence_piece())
    with LiveService(toy_settings(volume)) as service:
        service.wait_ready()
        yield service.client


def token(text: str) -> int:
    token_id = sentence_piece().backend.token_to_id(text)
    assert token_id is not None
    return token_id


def choice(client: httpx.Client, forced: str, **body: Any) -> dict[str, Any]:
    """The answer whose every token is forced to be one."""
    asked = {"prompt": "Once upon", "max_tokens": 2, "logit_bias": {str(token(forced)): 100}}
    answer = client.post("/v1/completions", json=asked | {"temperature": 0} | body).json()
    made: dict[str, Any] = answer["choices"][0]
    return made


def test_a_completion_keeps_its_first_space(client: httpx.Client) -> None:
    assert choice(client, "▁a")["text"] == " a a"
    assert choice(client, "▁a", prompt="")["text"] == "a a"
    assert choice(client, "<0x41>")["text"] == "AA"


def test_stop_strings_see_the_space(client: httpx.Client) -> None:
    assert choice(client, "▁a", stop=" a")["text"] == ""
    assert choice(client, "▁a", stop="a a")["text"] == " "


def test_echo_is_the_prompt_and_offsets_are_those_of_its_text(client: httpx.Client) -> None:
    made = choice(client, "▁a", echo=True, logprobs=0)
    assert made["text"] == "Once upon a a"
    scores = made["logprobs"]
    assert scores["tokens"] == ["<s>", "Once", " upon", " a", " a"]
    assert scores["text_offset"] == [0, 0, 4, 9, 11]


def test_parts_of_a_character_begin_where_it_does(client: httpx.Client) -> None:
    made = choice(client, "▁a", prompt="é Once", echo=True, logprobs=0, max_tokens=1)
    assert made["text"] == "é Once a"
    scores = made["logprobs"]
    starts = dict(zip(scores["tokens"], scores["text_offset"], strict=True))
    assert starts["bytes:\\xc3"] == starts["bytes:\\xa9"] == 0
    assert starts[" a"] == 6


def test_bytes_of_logprobs_are_those_of_the_text(client: httpx.Client) -> None:
    asked = {
        "messages": [{"role": "user", "content": "Once"}],
        "max_tokens": 2,
        "logprobs": True,
        "temperature": 0,
        "logit_bias": {str(token("<0x0A>")): 100},
    }
    made = client.post("/v1/chat/completions", json=asked).json()["choices"][0]
    assert made["message"]["content"] == "\n\n"
    assert [one["bytes"] for one in made["logprobs"]["content"]] == [[10], [10]]


def test_tokens_of_an_echo_are_its_text(client: httpx.Client) -> None:
    echoed = choice(client, "▁a", echo=True, logprobs=1)
    begins, *tokens = echoed["logprobs"]["tokens"]
    assert begins == "<s>", "it stands in no text, and is spelled out"
    assert "".join(tokens) == echoed["text"] == "Once upon a a"

"""What a model's own files say is what its service does: ends, begin tokens, sampling defaults."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import LiveService, toy_settings
from tokenizers import Tokenizer as Backend
from tokenizers import processors
from toys import publish_toy, toy_config, toy_tokenizer, toy_weights
from transformers import AutoTokenizer

from lm.huggingface.model import Foreign
from lm.sampling_defaults import sampling_defaults
from lm.text.tokenizer import Tokenizer
from lm.volume import Step

BEGIN = 5
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}"
)
SAMPLING = {"do_sample": True, "temperature": 0.0, "top_k": 7, "repetition_penalty": 1.5}
MESSAGES = [{"role": "user", "content": "To be"}]


def tokenizer() -> Tokenizer:
    """One that begins every text itself, as Llama 2's does, with a chat template of its own."""
    backend = Backend.from_str(toy_tokenizer().backend.to_str())
    name = str(backend.id_to_token(BEGIN))
    backend.add_special_tokens([name])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{name} $A", special_tokens=[(name, BEGIN)]
    )
    return Tokenizer(
        backend,
        bos_token_id=BEGIN,
        eos_token_ids=[0],
        chat_template=TEMPLATE,
        generation=SAMPLING,
    )


def published(volume: Path) -> Step:
    return publish_toy(volume, "toy", 1, tokenizer=tokenizer())


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("volume")).path


@pytest.fixture(scope="module", params=["model", "none"])
def follows(request: pytest.FixtureRequest) -> bool:
    """Whether the makers' sampling is the default."""
    return bool(request.param == "model")


@pytest.fixture(scope="module")
def client(model_dir: Path, follows: bool) -> Iterator[httpx.Client]:
    said = "model" if follows else "none"
    with LiveService(toy_settings(model_dir.parent.parent, sampling_defaults=said)) as service:
        service.wait_ready()
        yield service.client


def test_a_chat_is_encoded_as_transformers_encodes_it(
    client: httpx.Client, model_dir: Path
) -> None:
    theirs = AutoTokenizer.from_pretrained(model_dir)
    chat = client.post("/tokenize", json={"messages": MESSAGES}).json()["tokens"]
    text = client.post("/tokenize", json={"prompt": "To be"}).json()["tokens"]
    assert chat == theirs.apply_chat_template(MESSAGES, tokenize=True, return_dict=False)
    assert BEGIN not in chat
    assert text == theirs.encode("To be")
    assert text[0] == BEGIN


def test_the_makers_sampling_is_the_default_and_a_request_has_the_last_word(
    client: httpx.Client, follows: bool
) -> None:
    def text(**body: Any) -> str:
        asked = {"prompt": "To be", "max_tokens": 12, **body}
        answer: str = client.post("/v1/completions", json=asked).json()["choices"][0]["text"]
        return answer

    listed = client.get("/v1/models/toy").json()["sampling_defaults"]
    assert listed == ({k: v for k, v in SAMPLING.items() if k != "do_sample"} if follows else {})
    greedy = text(temperature=0, repetition_penalty=1.5)
    assert ({text(seed=seed) for seed in range(4)} == {greedy}) is follows
    assert len({text(temperature=5.0, top_k=0, seed=seed) for seed in range(4)}) > 1


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"temperature": "hot"}, "temperature must be a number, got 'hot'"),
        ({"top_k": 2.5}, "top_k must be a number"),
        ({"min_p": -1}, "min_p must be between 0 and 1, got -1"),
    ],
    ids=str,
)
def test_sampling_that_no_request_could_ask_for_is_refused_at_import(
    said: dict[str, Any], message: str
) -> None:
    odd = Tokenizer(toy_tokenizer().backend, bos_token_id=0, eos_token_ids=[0], generation=said)
    with pytest.raises(ValueError, match=message):
        Foreign.checked(toy_config(), toy_weights(), odd)


def test_nothing_said_is_no_default() -> None:
    nothing = {"temperature": None, "top_k": -1, "max_length": 20}
    assert sampling_defaults(nothing) == {"top_k": 0}

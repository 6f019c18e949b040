"""Vocabularies that no structure can be held with are served, and say so to who asks for one."""

from collections.abc import Callable, Iterator

import httpx
import pytest
from serving import LiveService, toy_settings
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from toys import publish_toy

from lm.text.tokenizer import Tokenizer
from service.engine.structure.constraint import schema_grammar
from service.engine.structure.grammars import Grammars, NoStructures

WORDS = ["[UNK]", "[END]", "to", "be", "or", "not", "##t", "▁to", "▁be", "▁", "t", "o", "b", "e"]


def word_piece() -> Backend:
    made = Backend(models.WordPiece(dict(zip(WORDS, range(99), strict=False)), unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece()
    return made


def unigram() -> Backend:
    made = Backend(models.Unigram([(word, -1.0) for word in WORDS], unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return made


def word_level() -> Backend:
    made = Backend(models.WordLevel(dict(zip(WORDS, range(99), strict=False)), unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


KINDS = [word_piece, unigram, word_level]


def tokenizer_of(kind: Callable[[], Backend]) -> Tokenizer:
    backend = kind()
    backend.add_special_tokens(["[UNK]", "[END]"])
    return Tokenizer(backend, bos_token_id=None, eos_token_ids=[1])


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def client(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[httpx.Client]:
    volume = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 1, tokenizer=tokenizer_of(request.param))
    with LiveService(toy_settings(volume)) as service:
        service.wait_ready()
        yield service.client


def test_texts_are_answered(client: httpx.Client) -> None:
    answer = client.post("/generate", json={"prompt": "to be", "max_new_tokens": 3})
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 3


def test_a_structure_is_refused_by_name(client: httpx.Client) -> None:
    body = {
        "messages": [{"role": "user", "content": "to"}],
        "response_format": {"type": "json_object"},
    }
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert "no structure can be held with this model" in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_engine_says_which_kind_it_is(kind: Callable[[], Backend]) -> None:
    grammars = Grammars(tokenizer_of(kind))
    grammars.warm_up()
    with pytest.raises(NoStructures, match=type(kind().model).__name__):
        grammars.check(schema_grammar({"type": "object"}))

"""A panic of a library in Rust is refused in our words, and ends nothing but its request."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import LiveService, toy_settings

from lm.panics import LibraryPanic, is_panic, without_panics
from lm.text.tokenizer import Tokenizer

SECRET = "called `Option::unwrap()` on a `None` value: src/secret.rs:7"
PanicException = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
"""As pyo3 makes it, once for each library; none exports it."""


class Panics:
    """Stands where a library's object does; what only looks at it is answered by a real one."""

    def __init__(self, real: object = None) -> None:
        self._real = real

    def __getattr__(self, name: str) -> object:
        if name.startswith("get_") and self._real is not None:
            return getattr(self._real, name)

        def panic(*_: object, **__: object) -> None:
            raise PanicException(SECRET)

        return panic


@pytest.fixture(scope="module")
def live(volume: Path) -> Iterator[LiveService]:
    with LiveService(toy_settings(volume)) as service:
        service.wait_ready()
        yield service


def test_only_a_panic_is_taken_for_one() -> None:
    with pytest.raises(LibraryPanic) as refused, without_panics("the tokenizer"):
        raise PanicException(SECRET)
    assert SECRET not in str(refused.value)
    with pytest.raises(KeyboardInterrupt), without_panics("the tokenizer"):
        raise KeyboardInterrupt
    assert not is_panic(ValueError())


def test_a_real_one_is_known() -> None:
    """The one of the issue: a table of SentencePiece's that is cut short."""
    from tokenizers import normalizers

    with pytest.raises(BaseException) as raised:  # noqa: PT011  not an Exception
        normalizers.Precompiled(b"AAAA").normalize_str("a")
    assert is_panic(raised.value) or isinstance(raised.value, Exception)


@pytest.mark.parametrize("size", [10, 3000], ids=["in the loop", "in a lane"])
@pytest.mark.parametrize("route", ["/generate", "/v1/completions", "/", "/tokenize"])
def test_a_panic_of_the_tokenizer_is_refused(
    live: LiveService, monkeypatch: pytest.MonkeyPatch, route: str, size: int
) -> None:
    tokenizer = live.runtime.model().tokenizer
    monkeypatch.setattr(tokenizer, "backend", Panics(tokenizer.backend))
    text = {"inputs" if route == "/" else "prompt": "a b " * (size // 4)}
    response = live.client.post(route, json=text)
    assert response.status_code in (400, 422)
    assert "secret" not in response.text
    monkeypatch.undo()
    assert live.client.post("/generate", json={"prompt": "a", "max_new_tokens": 1}).is_success


def test_a_panic_while_tokens_become_text_is_refused(
    live: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer: Tokenizer = live.runtime.model().tokenizer
    monkeypatch.setattr(tokenizer, "backend", Panics(tokenizer.backend))
    response = live.client.post("/detokenize", json={"tokens": [5, 6]})
    assert response.status_code == 422
    assert "secret" not in response.text


class PanickingMatcher:
    """Stands where llguidance's matcher does."""

    def __init__(self, *_: object, **__: object) -> None:
        raise PanicException(SECRET)

    @staticmethod
    def grammar_from_json_schema(*_: object, **__: object) -> str:
        raise PanicException(SECRET)

    @staticmethod
    def grammar_from_regex(pattern: str) -> str:
        if "[" in pattern:
            raise PanicException(SECRET)
        return pattern


@pytest.mark.parametrize(
    "asked",
    [
        {"regex": "[xy]"},
        {"regex": "xy"},
        {"response_format": {"type": "json_object", "schema": {"const": 1}}},
    ],
    ids=["regex", "beginning", "schema"],
)
def test_a_panic_while_a_structure_is_read_is_refused(
    live: LiveService, monkeypatch: pytest.MonkeyPatch, asked: dict[str, object]
) -> None:
    import llguidance

    monkeypatch.setattr(llguidance, "LLMatcher", PanickingMatcher)
    response = live.client.post("/generate", json={"prompt": "a", "max_new_tokens": 2, **asked})
    assert response.status_code == 422
    assert "failed inside its library" in response.text
    assert "secret" not in response.text


def test_a_panic_while_a_structure_is_followed_ends_its_answer_alone(
    live: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.engine.structure import grammars
    from service.engine.structure.constraint import Constraint

    monkeypatch.setattr(
        grammars.Grammars,
        "begin",
        lambda *_: Constraint(Panics()),  # type: ignore[arg-type]
    )
    asked = {"prompt": "a", "max_new_tokens": 4, "regex": "[ab]{3}"}
    response = live.client.post("/generate", json=asked)
    assert response.status_code == 422
    assert "cannot be followed" in response.text
    assert "secret" not in response.text
    monkeypatch.undo()
    assert live.client.post("/generate", json=asked).is_success

"""Tokenizers and templates that do too much, each refused in a process of its own."""

import base64
import io
import json
import pickle
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from toys import publish_toy, toy_tokenizer

from lm.text.tokenizer import Tokenizer
from lm.trial import Refused, load_tried, program, read_tried, trying
from lm.volume import StepUnreadable, load_tokenizer

LONG = "x" * 100_000


def replace(pattern: Mapping[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def charsmap(content: str) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": content}


def sequence(*parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": parts}


PARTS: dict[str, dict[str, Any]] = {
    "panics": {"normalizer": charsmap("AAAA")},
    "grows": {"normalizer": replace({"String": "a"}, LONG)},
    "grows on a rare word": {"normalizer": replace({"String": "zyzzyva"}, LONG * 2)},
    "grows by a regex": {"normalizer": replace({"Regex": "q?"}, LONG)},
    "grows everywhere": {"normalizer": replace({"String": ""}, LONG)},
    "grows in turns": {
        "normalizer": sequence(*[replace({"String": c}, "ab" * 8) for c in "abababab"])
    },
    "grows by prepending": {"normalizer": {"type": "Prepend", "prepend": LONG * 100}},
    "decodes to too much": {"decoder": replace({"String": "a"}, LONG)},
    "backtracks": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(a+)+$"},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    "surrounds": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 200,
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
            ],
            "special_tokens": {},
        }
    },
    "has a token without end": {
        "added_tokens": [
            {
                "id": 0,
                "content": LONG,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": False,
            }
        ]
    },
}


def write(directory: Path, changes: Mapping[str, Any], template: str | None = None) -> Path:
    """A toy's tokenizer with parts of others, in a directory."""
    directory.mkdir(exist_ok=True)
    content = json.loads(toy_tokenizer().backend.to_str())
    (directory / "tokenizer.json").write_text(json.dumps(content | changes))
    config = {"eos_token": "<|endoftext|>"} | ({"chat_template": template} if template else {})
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("kind", PARTS)
def test_a_tokenizer_that_does_too_much_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(Refused) as refused:
        load_tried(write(tmp_path / "model", PARTS[kind]))
    assert refused.value.part == "tokenizer"
    assert str(tmp_path / "model" / "tokenizer.json") in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 300000000 }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}"
        "{% endfor %}{{ n.x }}",
    ],
)
def test_a_template_that_does_too_much_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(Refused) as refused:
        load_tried(write(tmp_path / "model", {}, template))
    assert refused.value.part == "chat_template"


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{{ 1 / 0 }}"])
def test_a_template_that_takes_no_chat_is_its_own_matter(tmp_path: Path, template: str) -> None:
    tokenizer = load_tried(write(tmp_path / "model", {}, template))
    assert tokenizer.chat_template == template


def test_a_template_that_is_none_is_refused_by_its_file(tmp_path: Path) -> None:
    directory = write(tmp_path / "model", {}, "{% broken")
    with pytest.raises(
        ValueError, match=f"^{directory}/[a-z_.]+: the chat template cannot be read"
    ):
        load_tried(directory)


def test_what_is_common_is_let_through(tmp_path: Path) -> None:
    for changes in (
        {},
        {
            "normalizer": sequence(
                {"type": "Prepend", "prepend": "▁"}, replace({"String": " "}, "▁")
            )
        },
        {"normalizer": sequence({"type": "NFKD"}, {"type": "Lowercase"}, {"type": "StripAccents"})},
        {"normalizer": sequence(replace({"String": "``"}, '"'), replace({"String": "''"}, '"'))},
    ):
        directory = write(tmp_path / "model", changes)
        tokenizer = load_tried(directory)
        assert tokenizer.fingerprint == Tokenizer.load(directory).fingerprint


def test_t5s_normalizer_is_let_through_and_one_that_writes_more_is_not(tmp_path: Path) -> None:
    t5 = _nmt_nfkc()
    parts = sequence(charsmap(t5), replace({"Regex": " {2,}"}, "▁"))
    load_tried(write(tmp_path / "model", {"normalizer": parts}))
    longer = base64.b64encode(base64.b64decode(t5) + b"y" * 1000 + b"\0").decode()
    with pytest.raises(Refused, match="normalizer can make a text more than"):
        load_tried(write(tmp_path / "other", {"normalizer": charsmap(longer)}))


def _nmt_nfkc() -> str:
    """SentencePiece's own map, as T5 has it."""
    sentencepiece = pytest.importorskip("sentencepiece")
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    written, model = io.BytesIO(), proto.ModelProto()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"hello world this is {n}" for n in range(200)]),
        model_writer=written,
        vocab_size=40,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    model.ParseFromString(written.getvalue())
    return base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()


def test_what_is_no_tokenizer_is_said_as_without_a_trial(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer") as plain:
        Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="is not a tokenizer") as tried:
        load_tried(tmp_path)
    assert str(tried.value) == str(plain.value)
    assert not isinstance(tried.value, Refused)


def test_bytes_are_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write(tmp_path / "model", {}, "{{ messages[0].content }}")
    load_tried(directory)
    monkeypatch.setattr(trying, "_run", lambda *_: pytest.fail("tried again"))
    load_tried(directory)


def test_memory_and_time_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = {f"word{number}": number for number in range(200_000)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "word0"}
    directory = write(tmp_path / "model", {"model": model, "added_tokens": []})
    with monkeypatch.context() as small:
        small.setattr(trying, "MEMORY_BYTES", 1 << 24)
        small.setattr(trying, "PER_BYTE", 0)
        with pytest.raises(Refused, match="memory"):
            load_tried(directory)
    trying._known().clear()
    with monkeypatch.context() as late:
        late.setattr(trying, "WALL_S", 0.001)
        with pytest.raises(TimeoutError, match="not tried out"):
            load_tried(directory)
    assert load_tried(directory).vocab_size > 200_000


def test_a_step_whose_tokenizer_cannot_be_tried_now_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = publish_toy(tmp_path, "late", 1)
    trying._known().clear()
    monkeypatch.setattr(trying, "WALL_S", 0.001)
    with pytest.raises(StepUnreadable):
        load_tokenizer(step)


def test_what_was_tried_is_what_is_read(tmp_path: Path) -> None:
    """A file that changes in between is not read again."""
    from lm.side_files import SideFiles

    directory = write(tmp_path / "model", {})
    reads: list[str] = []

    def read(name: str) -> bytes | None:
        reads.append(name)
        file = directory / name
        return file.read_bytes() if file.is_file() else None

    read_tried(SideFiles(directory, read))
    assert len(reads) == len(set(reads))


def test_a_system_that_bounds_no_address_space_tries_without_that_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS refuses a limit below what is mapped already."""
    setrlimit = resource.setrlimit

    def refuse(which: int, limits: tuple[int, int]) -> None:
        if which == resource.RLIMIT_AS:
            raise ValueError("current limit exceeds maximum limit")
        setrlimit(which, limits)

    monkeypatch.setattr(resource, "setrlimit", refuse)
    toy_tokenizer().save(tmp_path)
    contents = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    request = pickle.dumps((1 << 20, str(tmp_path), "tokenizer.json", contents))
    assert program._in_child(request) == ("{}", 0)
    assert program._in_child(b"no request") == ("", 1)

"""Files beside ``tokenizer.json``; oracle: transformers, which reads the same directories."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, processors
from toys import toy_tokenizer
from transformers import AutoTokenizer

from lm.text.chat import chat_prompt
from lm.text.tokenizer import Tokenizer

BEGIN, END, TURN, TOOL = "<s>", "</s>", "<|turn|>", "<tool>"
TEXT = f"to be{TURN} or {TOOL}not{END}"


def backend() -> Backend:
    """300 byte-level ids, and ``<s>`` and ``</s>`` around each text, as Llama 2's has them."""
    made = Backend.from_str(toy_tokenizer().backend.to_str())
    made.add_special_tokens([BEGIN, END])
    made.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, 300)]
    )
    return made


def directory(path: Path, config: dict[str, Any] | None = None, **others: object) -> Path:
    """A tokenizer's directory; of ``others`` each becomes a JSON file."""
    path.mkdir(exist_ok=True)
    backend().save(str(path / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "eos_token": END}
    (path / "tokenizer_config.json").write_text(json.dumps(names | (config or {})))
    for name, content in others.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def as_token(content: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word"), False)
    return {"content": content, "normalized": not special, "special": special, **flags}


DECODER = {
    "302": as_token(TURN, special=True),
    "303": as_token(TOOL, special=False),
}


@pytest.mark.parametrize(
    ("config", "others"),
    [
        ({"added_tokens_decoder": DECODER}, {}),
        ({}, {"added_tokens": {TOOL: 303, TURN: 302}}),
        (
            {},
            {
                "added_tokens": {TOOL: 303, TURN: 302},
                "special_tokens_map": {"extra_special_tokens": [TURN]},
            },
        ),
        ({"additional_special_tokens": [TURN, TOOL]}, {}),
        ({"extra_special_tokens": [TURN, TOOL]}, {}),
        ({"pad_token": TURN, "unk_token": TOOL}, {}),
        ({}, {"special_tokens_map": {"pad_token": TURN, "mask_token": {"content": TOOL}}}),
    ],
    ids=str,
)
def test_tokens_that_only_side_files_have_are_added_as_transformers_adds_them(
    config: dict[str, Any], others: dict[str, object], tmp_path: Path
) -> None:
    path = directory(tmp_path / "made", config, **others)
    ours, theirs = Tokenizer.load(path), AutoTokenizer.from_pretrained(path)
    assert ours.encode(TEXT) == theirs.encode(TEXT)
    ids = theirs.encode(TEXT, add_special_tokens=False)
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.vocab_size == len(theirs) == 304


def test_an_id_that_the_vocabulary_cannot_give_is_refused_by_name(tmp_path: Path) -> None:
    path = directory(
        tmp_path / "made", {"added_tokens_decoder": {"400": as_token(TURN, special=True)}}
    )
    with pytest.raises(ValueError, match=r"'<\|turn\|>' the id 400, .* it would be 302"):
        Tokenizer.load(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", "{", "not JSON"),
        ("tokenizer_config.json", "[]", "not a JSON object"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "y"}}}', "not ids"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"302": 5}}', "5 is no token"),
        ("tokenizer_config.json", '{"added_tokens_decoder": []}', "is no object"),
        ("tokenizer_config.json", '{"pad_token": 7}', "7 is no token"),
        ("added_tokens.json", "nonsense", "not JSON"),
        ("added_tokens.json", '{"<a>": "b"}', "not ids and tokens"),
        ("special_tokens_map.json", "{,}", "not JSON"),
        ("generation_config.json", "\ufeff{}", "not JSON"),
        ("generation_config.json", '{"eos_token_id": "two"}', "'two' is no token id"),
        ("generation_config.json", '{"eos_token_id": [true]}', "is no token id"),
        ("config.json", '{"eos_token_id": -1}', "-1 is no token id"),
        ("config.json", "[" * 100_000, "not JSON"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_broken_side_file_is_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = directory(tmp_path / "made")
    (path / name).write_text(content, "utf-8")
    with pytest.raises(ValueError, match=message) as error:
        Tokenizer.load(path)
    assert str(path / name) in str(error.value)


def test_a_template_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = directory(tmp_path / "made")
    (path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"chat_template\.jinja"):
        Tokenizer.load(path)


def test_of_several_templates_the_default_one_counts(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    assert (
        Tokenizer.load(directory(tmp_path / "a", {"chat_template": named})).chat_template == "yes"
    )


def test_facts_go_through_a_save_whole(tmp_path: Path) -> None:
    said = {
        "pad_token": TURN,
        "unk_token": END,
        "model_max_length": 77,
        "padding_side": "left",
        "extra_special_tokens": [TOOL],
    }
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "pad_token_id": 302}
    path = directory(
        tmp_path / "made", said, generation_config=sampling | {"eos_token_id": [301, 302]}
    )
    loaded = Tokenizer.load(path)
    again = tmp_path / "again"
    again.mkdir()
    loaded.save(again)
    (again / "generation_config.json").write_text(loaded.generation_json())
    second = Tokenizer.load(again)
    theirs, first = (AutoTokenizer.from_pretrained(where) for where in (again, path))
    assert second.fingerprint == loaded.fingerprint
    assert (second.kept, second.generation) == (loaded.kept, loaded.generation)
    assert second.eos_token_ids == (301, 302)
    assert second.generation == sampling
    for name in ("pad_token_id", "unk_token_id", "eos_token_id", "model_max_length"):
        assert getattr(theirs, name) == getattr(first, name), name
    assert theirs.padding_side == "left"
    assert theirs.encode(TEXT) == first.encode(TEXT) == loaded.encode(TEXT)


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("flag", [True, False, None])
@pytest.mark.parametrize("own", [True, False])
def test_a_space_before_a_text_is_added_as_transformers_does(
    tmp_path: Path, name: str, flag: bool | None, own: bool
) -> None:
    flags = {} if flag is None else {"add_prefix_space": flag}
    path = directory(tmp_path / "there", {"tokenizer_class": name, **flags})
    content = json.loads((path / "tokenizer.json").read_text("utf-8"))
    content["pre_tokenizer"]["add_prefix_space"] = own
    (path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    theirs = AutoTokenizer.from_pretrained(path)
    ours = Tokenizer.load(path)
    assert ours.encode("to be") == theirs.encode("to be")
    saved = tmp_path / "saved"
    saved.mkdir()
    ours.save(saved)
    assert Tokenizer.load(saved).encode("to be") == ours.encode("to be")


@pytest.mark.parametrize(
    "flags", [{"split_special_tokens": True}, {"add_prefix_space": "yes"}], ids=str
)
def test_a_flag_that_cannot_be_followed_is_refused(tmp_path: Path, flags: dict[str, Any]) -> None:
    path = directory(tmp_path / "there", flags)
    with pytest.raises(ValueError, match=f"^{path / 'tokenizer_config.json'}: {min(flags)} is "):
        Tokenizer.load(path)


def pieces_directory(path: Path, config: dict[str, Any]) -> Path:
    """A vocabulary like Llama 2's: pieces with ``▁``, which ``tokenizer.json`` puts everywhere."""
    words = ["<unk>", BEGIN, END, *"▁tobe", "▁t", "▁to", "▁b", "▁be"]
    merges = [("▁", "t"), ("▁t", "o"), ("▁", "b"), ("▁b", "e")]
    vocabulary = {word: number for number, word in enumerate(words)}
    made = Backend(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens([BEGIN, END])
    path.mkdir()
    made.save(str(path / "tokenizer.json"))
    names = {"bos_token": BEGIN, "eos_token": END, "unk_token": "<unk>"}
    (path / "tokenizer_config.json").write_text(json.dumps(names | config))
    return path


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer"])
@pytest.mark.parametrize(
    "flags", [{"add_prefix_space": False}, {"legacy": False}, {"legacy": True}], ids=str
)
def test_flags_of_llama_decide_where_a_space_is_put_as_in_transformers(
    tmp_path: Path, name: str, flags: dict[str, Any]
) -> None:
    path = pieces_directory(tmp_path / "there", {"tokenizer_class": name, **flags})
    theirs, ours = AutoTokenizer.from_pretrained(path), Tokenizer.load(path)
    for text in ("to be", "be", f"to{END}be to", f"{END}to"):
        expected = theirs.encode(text, add_special_tokens=False)
        if flags.get("legacy"):  # there ``tokenizer.json`` is followed, as by transformers 4
            expected = Backend.from_file(str(path / "tokenizer.json")).encode(text).ids
        assert ours.encode(text, add_special_tokens=False) == expected, text
        assert ours.decode(expected) == theirs.decode(expected, skip_special_tokens=True), text
    saved = tmp_path / "saved"
    saved.mkdir()
    ours.save(saved)
    again = AutoTokenizer.from_pretrained(saved)
    assert again.encode("to be") == ours.encode("to be")


def test_facts_that_only_the_config_names_go_through(tmp_path: Path) -> None:
    templates = [
        {"name": "default", "template": "{{ messages }}"},
        {"name": "tool_use", "template": "{{ tools }}"},
    ]
    facts = {"bos_token": None, "chat_template": templates, "image_token": TURN}
    ids = {"bos_token_id": 7, "pad_token_id": 9, "eos_token_id": 301}
    path = directory(tmp_path / "there", facts, generation_config={"bos_token_id": 7})
    (path / "config.json").write_text(json.dumps(ids))
    made = Tokenizer.load(path)
    assert made.bos_token_id is None
    assert json.loads(made.generation_json()) == {**ids, "eos_token_id": [301]}
    saved = json.loads(made.config_json())
    assert (saved["chat_template"], saved["image_token"]) == (templates, TURN)
    assert made.chat_template == "{{ messages }}"


def test_templates_without_a_default_are_refused(tmp_path: Path) -> None:
    path = directory(tmp_path, {"chat_template": [{"name": "tool_use", "template": "x"}]})
    with pytest.raises(ValueError, match=r"/tokenizer_config.json: chat_template has several"):
        Tokenizer.load(path)


@pytest.mark.parametrize(
    "facts",
    [
        {"extra_special_tokens": {"image_token": TURN}},
        {"image_token": TURN},
        {"model_specific_special_tokens": {"image_token": TURN}},
        {"extra_special_tokens": {"image_token": {"content": TURN, "__type": "AddedToken"}}},
    ],
    ids=str,
)
def test_a_template_knows_tokens_by_the_names_that_their_makers_gave(
    tmp_path: Path, facts: dict[str, Any]
) -> None:
    template = "{{ image_token }}{{ messages[0].content }}"
    path = directory(tmp_path, {"chat_template": template, **facts})
    messages = [{"role": "user", "content": "x"}]
    theirs = AutoTokenizer.from_pretrained(path)
    expected = theirs.apply_chat_template(messages, tokenize=False)
    assert chat_prompt(Tokenizer.load(path), messages) == expected == f"{TURN}x"

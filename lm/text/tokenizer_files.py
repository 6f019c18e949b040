"""What stands beside a ``tokenizer.json``: which tokens are added, which end a text, defaults.

Read as transformers reads it: tokens that only ``tokenizer_config.json``, ``added_tokens.json`` or
``special_tokens_map.json`` has are added to the vocabulary, special ones marked as such. End
tokens are the union of what the tokenizer, ``generation_config.json`` and ``config.json`` name.
Every error names its file.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.pre_tokenizers import Metaspace

from lm.side_files import SideFiles

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
GENERATION_CONFIG_FILE = "generation_config.json"
OTHER_SPECIALS = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Special tokens that neither begin nor end a text, by their names in a config."""
_SPECIALS = ("bos_token", "eos_token", *OTHER_SPECIALS)
_BYTE_LEVEL = ("GPT2Tokenizer", "RobertaTokenizer", "CodeGenTokenizer")
"""Classes of byte-level vocabularies that transformers builds anew, by the config's flags."""
_PIECES = ("LlamaTokenizer", "CodeLlamaTokenizer")
"""Classes of SentencePiece's kind, of which the same holds."""
_EXTRA = (
    *("extra_special_tokens", "additional_special_tokens"),
    "model_specific_special_tokens",
)
_KEPT = (
    *OTHER_SPECIALS,
    *("model_max_length", "padding_side", "truncation_side", *_EXTRA),
)
"""Of ``tokenizer_config.json``, to be written again as it was."""
_TOKEN_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


def read_config(files: SideFiles) -> dict[str, Any]:
    """``tokenizer_config.json`` with what the older files beside it add to it."""
    config = _checked(files, TOKENIZER_CONFIG_FILE)
    if "added_tokens_decoder" in config:
        return config
    return config | _checked(files, "special_tokens_map.json")


def _checked(files: SideFiles, name: str) -> dict[str, Any]:
    """Content of a file whose special tokens are tokens."""
    config, file = files.json_object(name), files.where / name
    for key in _EXTRA:
        if not isinstance(config.get(key), list | Mapping | None):
            raise ValueError(f"{file}: {key} is no list of tokens")
    for value in _special_values(config):
        _token(value, file, special=True)
    return config


def add_missing(backend: Backend, files: SideFiles, config: Mapping[str, Any]) -> None:
    """Add the tokens that only the side files have.

    Raises ``ValueError`` naming a token whose id would be another than the files say.
    """
    known = {str(token): repr(token) for token in backend.get_added_tokens_decoder().values()}
    file, wanted = _added(files, config)
    named = {_content(config.get(key)) for key in _SPECIALS}
    fresh: list[AddedToken] = []
    for _, token in wanted:
        token.special = token.special or token.content in named
        if known.get(token.content) != repr(token):
            fresh.append(token)
    listed = known.keys() | {token.content for token in fresh}
    for value in _special_values(config):
        token = _token(value, files.where / TOKENIZER_CONFIG_FILE, special=True)
        if token.content not in listed:
            listed |= {token.content}
            fresh.append(token)
    if fresh:
        backend.add_tokens(fresh)
    for token_id, token in wanted:
        if (actual := backend.token_to_id(token.content)) != token_id:
            raise ValueError(
                f"{file}: gives token {token.content!r} the id {token_id}, "
                f"after the vocabulary it would be {actual}"
            )


def apply_flags(backend: Backend, files: SideFiles, config: Mapping[str, Any]) -> None:
    """Follow flags of ``tokenizer_config.json`` that change how a text is split.

    ``add_prefix_space`` and ``legacy`` count for the classes that transformers builds anew from
    vocabulary and merges; for others ``tokenizer.json`` alone does. Raises ``ValueError`` for what
    is no flag, and for one that would make chat templates meaningless.
    """
    file = files.where / TOKENIZER_CONFIG_FILE
    if config.get("split_special_tokens"):
        raise ValueError(
            f"{file}: split_special_tokens is not supported: special tokens in a chat's text "
            "would be split into letters"
        )
    for key in ("add_prefix_space", "legacy"):
        if not isinstance(config.get(key), bool | None):
            raise ValueError(f"{file}: {key} is neither true nor false: {config[key]!r}")
    name = str(config.get("tokenizer_class")).removesuffix("Fast")
    if name in _BYTE_LEVEL:
        _space_byte_level(backend, wanted=config.get("add_prefix_space") or False)
    elif name in _PIECES:
        is_never = config.get("add_prefix_space") is False
        if is_never or config.get("legacy") is False:
            _space_pieces(backend, "never" if is_never else "first")


def _space_byte_level(backend: Backend, *, wanted: bool) -> None:
    """Put a space before a text, or do not, where the vocabulary is one of bytes."""
    content = json.loads(backend.to_str())
    section = content["pre_tokenizer"] or {}
    parts = [
        part
        for part in section.get("pretokenizers", [section])
        if part.get("type") == "ByteLevel" and part["add_prefix_space"] != wanted
    ]
    for part in parts:
        part["add_prefix_space"] = wanted
    if parts:
        backend.pre_tokenizer = Backend.from_str(json.dumps(content)).pre_tokenizer


def _space_pieces(backend: Backend, scheme: Literal["never", "first"]) -> None:
    """Put ``\u2581`` before a text's beginning or nowhere, and not behind each special token."""
    content = json.loads(backend.to_str())
    if not {"Prepend", "Metaspace"} & _types(content["normalizer"], content["pre_tokenizer"]):
        return
    backend.normalizer = None
    backend.pre_tokenizer = Metaspace(replacement="\u2581", prepend_scheme=scheme, split=False)
    decoder = content["decoder"] or {}
    if scheme == "never" and decoder.get("type") == "Sequence":
        decoder["decoders"] = [one for one in decoder["decoders"] if one["type"] != "Strip"]
        backend.decoder = Backend.from_str(json.dumps(content)).decoder


def _types(*sections: Mapping[str, Any] | None) -> set[str]:
    """Names of the parts that sections of a ``tokenizer.json`` have."""
    parts = [
        part
        for section in sections
        if section is not None
        for part in section.get("normalizers", section.get("pretokenizers", [section]))
    ]
    return {part["type"] for part in parts}


def kept_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of the config decides no ids and is written again with the tokenizer."""
    facts = {key: config[key] for key in _KEPT if config.get(key) is not None}
    facts |= {key: value for key, value in config.items() if _is_named_token(key, value)}
    if isinstance(config.get("chat_template"), list):
        facts["chat_template"] = config["chat_template"]
    longest = facts.get("model_max_length", 1)
    if type(longest) not in (int, float):
        raise ValueError(f"{TOKENIZER_CONFIG_FILE}: model_max_length must be a number: {longest!r}")
    for key in _SPECIALS:
        if key in facts:
            facts[key] = _content(facts[key])
    for key in _EXTRA:
        if isinstance(facts.get(key), list):
            facts[key] = [_content(value) for value in facts[key]]
    return facts


def named_tokens(facts: Mapping[str, Any]) -> dict[str, object]:
    """Tokens of kept facts by their names, as a chat template knows them."""
    named: dict[str, object] = {}
    for key in _EXTRA:
        extra = facts.get(key)
        named |= extra if isinstance(extra, Mapping) else {}
    named |= {key: value for key, value in facts.items() if key.endswith("_token")}
    return {key: _content(value) for key, value in named.items()}


def named_ids(files: SideFiles, generation: Mapping[str, Any]) -> dict[str, int]:
    """Begin and padding ids by their names in ``generation_config.json``, else ``config.json``."""
    config = files.json_object("config.json")
    found = {
        name: next((one[name] for one in (generation, config) if type(one.get(name)) is int), None)
        for name in ("bos_token_id", "pad_token_id")
    }
    return {name: value for name, value in found.items() if value is not None and value >= 0}


def token_id(backend: Backend, value: object) -> int | None:
    """Id of a token that a config names, as a string or in transformers' older object form."""
    content = _content(value)
    return None if content is None else backend.token_to_id(content)


def end_ids(
    own: int | None, files: SideFiles, generation: Mapping[str, Any]
) -> dict[int, Path | None]:
    """Ids that end a text and the file that names each; the tokenizer's own first, with none."""
    ids: dict[int, Path | None] = {} if own is None else {own: None}
    config = files.json_object("config.json")
    for file, content in ((GENERATION_CONFIG_FILE, generation), ("config.json", config)):
        value = content.get("eos_token_id")
        for one in [] if value is None else value if isinstance(value, list) else [value]:
            if type(one) is not int or one < 0:
                raise ValueError(f"{files.where / file}: eos_token_id {value!r} is no token id")
            ids.setdefault(one, files.where / file)
    return ids


def chat_template(files: SideFiles, config: Mapping[str, Any]) -> str | None:
    """Template from its own file, as transformers 5 writes it, or from the config.

    Of several by name it is the one called ``default``.
    """
    own = files.text(TEMPLATE_FILE)
    if own is not None:
        return own
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        if len(named) < len(template):
            raise ValueError(f"{files.where / TOKENIZER_CONFIG_FILE}: chat_template names no texts")
        template = named.get("default")
        if template is None and named:
            raise ValueError(
                f"{files.where / TOKENIZER_CONFIG_FILE}: chat_template has several templates, and "
                "none is named 'default'"
            )
    if template is not None and not isinstance(template, str):
        raise ValueError(f"{files.where / TOKENIZER_CONFIG_FILE}: chat_template is no text")
    return template


def _added(
    files: SideFiles, config: Mapping[str, Any]
) -> tuple[Path, list[tuple[int, AddedToken]]]:
    """The side file that gives tokens an id, and those tokens by id."""
    decoder, file = config.get("added_tokens_decoder"), files.where / TOKENIZER_CONFIG_FILE
    if decoder is None:
        file = files.where / "added_tokens.json"
        special = {_content(value) for value in _special_values(config)}
        pairs = [
            (
                token_id,
                {
                    "content": content,
                    "special": content in special,
                    "normalized": content not in special,
                },
            )
            for content, token_id in files.json_object("added_tokens.json").items()
        ]
    elif isinstance(decoder, Mapping):
        pairs = list(decoder.items())
    else:
        raise ValueError(f"{file}: added_tokens_decoder is no object")
    try:
        by_id = sorted(((int(one), value) for one, value in pairs), key=lambda pair: pair[0])
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{file}: not ids and tokens: {error}") from error
    return file, [(token_id, _token(value, file, special=False)) for token_id, value in by_id]


def _special_values(config: Mapping[str, Any]) -> Iterator[object]:
    """Special tokens that the config names, as it has them."""
    yield from (config[key] for key in _SPECIALS if config.get(key) is not None)
    for key in _EXTRA:
        values = config.get(key) or []
        yield from values.values() if isinstance(values, Mapping) else values
    yield from (value for key, value in config.items() if _is_named_token(key, value))


def _is_named_token(key: str, value: object) -> bool:
    """Whether an entry names a special token that transformers has no name of its own for."""
    return key.endswith("_token") and key not in _SPECIALS and isinstance(value, str)


def _content(value: object) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _token(value: object, file: Path, *, special: bool) -> AddedToken:
    if isinstance(value, str):
        return AddedToken(value, special=special, normalized=False)
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str):
        raise ValueError(f"{file}: {value!r} is no token")
    options = {key: value[key] for key in _TOKEN_FIELDS if key in value}
    try:
        return AddedToken(**{**options, "special": bool(options.get("special", special))})
    except TypeError as error:
        raise ValueError(f"{file}: {value!r} is no token") from error

"""Text to token ids and back, over the ``tokenizers`` library's ``tokenizer.json``.

``Tokenizer`` adds what the library leaves to its callers: which tokens begin and end a text, a
fingerprint for the manifest, and the bytes of each token. ``lm.text.incremental`` streams text.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from tokenizers import Tokenizer as Backend

from lm.panics import without_panics
from lm.side_files import SideFiles
from lm.text import tokenizer_files as files
from lm.text.longest_token import TokenBytes
from lm.text.token_bytes import Spelling
from lm.text.tokenizer_backend import read_backend
from lm.text.tokenizer_files import TOKENIZER_CONFIG_FILE

__all__ = ["TOKENIZER_CONFIG_FILE", "TOKENIZER_FILE", "Tokenizer"]

TOKENIZER_FILE = "tokenizer.json"
_TOKENS_OF_GENERATION = ("bos_token_id", "eos_token_id")


class Tokenizer:
    """A ``tokenizers`` tokenizer with its special tokens named."""

    def __init__(
        self,
        backend: Backend,
        *,
        bos_token_id: int | None,
        eos_token_ids: Sequence[int],
        chat_template: str | None = None,
        kept: Mapping[str, Any] = MappingProxyType({}),
        generation: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.backend = backend
        self.bos_token_id = bos_token_id
        self.eos_token_ids = tuple(eos_token_ids)
        """The tokenizer's own comes first."""
        self.chat_template = chat_template
        self.kept = dict(kept)
        """What else ``tokenizer_config.json`` says: padding, unknown token, longest text."""
        self.generation = dict(generation)
        """What else ``generation_config.json`` says: how its makers sample from the model."""
        self.end_files: Mapping[int, Path | None] = MappingProxyType({})
        """The side file that an end token is from, for errors."""
        self.read_from: Path | None = None
        """Its directory, for errors."""
        self.companions: dict[str, object] = {}
        """What others made of it at some cost, for whoever has the same tokenizer."""
        self._bytes_of: dict[int, bytes] = {}
        """Of the tokens that were asked for so far."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a directory with ``tokenizer.json``, or such a file alone, as ``read`` does."""
        if path.is_dir():
            return cls.read(SideFiles.of_directory(path))
        return cls.read(SideFiles.of_directory(path.parent), path.name)

    @classmethod
    def read(cls, given: SideFiles, name: str = TOKENIZER_FILE) -> Self:
        """Read a file of this name; what the files beside it say counts too.

        See ``lm.text.tokenizer_files``. Raises ``ValueError`` naming the file that is missing or is
        not what it should be.
        """
        backend, named = read_backend(given, name)
        backend.no_truncation()  # a saved limit would cut every longer text without a word
        backend.no_padding()
        config = named | files.read_config(given)
        generation = given.json_object(files.GENERATION_CONFIG_FILE)
        files.add_missing(backend, given, config)
        files.apply_flags(backend, given, config)
        own = files.token_id(backend, config.get("eos_token"))
        ends = files.end_ids(own, given, generation)
        begin = files.token_id(backend, config.get("bos_token"))
        facts = {k: v for k, v in generation.items() if k not in _TOKENS_OF_GENERATION}
        facts |= files.named_ids(given, generation)
        if begin is not None:
            facts.pop("bos_token_id", None)
        made = cls(
            backend,
            bos_token_id=begin,
            eos_token_ids=list(ends),
            chat_template=files.chat_template(given, config),
            kept=files.kept_facts(config),
            generation=facts,
        )
        made.end_files = ends
        made.read_from = given.where
        return made

    def save(self, directory: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, readable by transformers."""
        (directory / TOKENIZER_FILE).write_text(self.backend.to_str(pretty=True), "utf-8")
        (directory / TOKENIZER_CONFIG_FILE).write_text(self.config_json(), "utf-8")

    def config_json(self) -> str:
        """The text of ``tokenizer_config.json``."""
        return json.dumps(self._deciding() | self.kept, indent=2, ensure_ascii=False) + "\n"

    def generation_json(self) -> str:
        """The text of ``generation_config.json``."""
        return json.dumps({**self.generation, **self.named_ids}, indent=2) + "\n"

    @property
    def named_ids(self) -> dict[str, Any]:
        """Begin, end and padding ids by their names in ``config.json``."""
        begin = self.generation.get("bos_token_id") if self.bos_token_id is None else None
        ids = {
            "bos_token_id": self.bos_token_id if begin is None else begin,
            "eos_token_id": list(self.eos_token_ids),
        }
        padding = self.generation.get("pad_token_id")
        return ids if padding is None else {**ids, "pad_token_id": padding}

    def _deciding(self) -> dict[str, Any]:
        """What of ``tokenizer_config.json`` decides ids and texts."""
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
        }
        if self.bos_token_id is not None:
            config["bos_token"] = self.backend.id_to_token(self.bos_token_id)
        if self.eos_token_ids:
            config["eos_token"] = self.backend.id_to_token(self.eos_token_ids[0])
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        return config

    def without_ids_from(self, num_ids: int) -> "Tokenizer":
        """Without the special tokens whose ids no embedding has, as an added ``[PAD]``'s.

        Nothing is trained on such an id and no text needs it. Raises ``ValueError`` naming a token
        past the end that is no special one, or that begins, ends or surrounds texts.
        """
        added = self.backend.get_added_tokens_decoder()
        beyond = {one: token for one, token in added.items() if one >= num_ids}
        needed = {self.bos_token_id, *self.eos_token_ids, *self.encode("")}
        vocabulary = self.backend.get_vocab(with_added_tokens=True).values()
        if any(one >= num_ids and one not in beyond for one in vocabulary):
            file = "" if self.read_from is None else f"{self.read_from / TOKENIZER_FILE}: "
            raise ValueError(
                f"{file}the tokenizer has ids up to {self.num_ids - 1}, the model {num_ids}"
            )
        for token_id, token in beyond.items():
            if not token.special or token_id in needed:
                raise ValueError(
                    f"{self._named_in(token_id)}the tokenizer has {self.num_ids} ids, the model "
                    f"{num_ids}: none for {token.content!r}"
                )
        for one in needed:
            if one is not None and one >= num_ids:
                where = self.end_files.get(one)
                kind = "end" if one in self.eos_token_ids else "begin"
                if one not in (*self.eos_token_ids, self.bos_token_id):
                    kind = "around every text the"
                if one not in (*self.eos_token_ids, self.bos_token_id) and self.read_from:
                    kind = f"{kind}, as {self.read_from / TOKENIZER_FILE} says,"
                whose = "the tokenizer has" if where is None else f"{where}: eos_token_id names"
                raise ValueError(f"{whose} {kind} token {one}, the model has {num_ids} ids")
        content = json.loads(self.backend.to_str())
        kept = [one for one in content["added_tokens"] if one["id"] < num_ids]
        names = {token.content for token in beyond.values()}
        return Tokenizer(
            Backend.from_str(json.dumps(content | {"added_tokens": kept})),
            bos_token_id=self.bos_token_id,
            eos_token_ids=self.eos_token_ids,
            chat_template=self.chat_template,
            kept={name: value for name, value in self.kept.items() if _is_kept(value, names)},
            generation={
                name: value
                for name, value in self.generation.items()
                if max(_ids_of_generation(name, value), default=0) < num_ids
            },
        )

    def _named_in(self, token_id: int) -> str:
        """Where a begin or end token is named, to begin an error; empty for others."""
        key = "eos_token" if token_id in self.eos_token_ids else "bos_token"
        if self.read_from is None or token_id not in (*self.eos_token_ids, self.bos_token_id):
            return ""
        file = self.end_files.get(token_id) or self.read_from / TOKENIZER_CONFIG_FILE
        return f"{file}: {key if file.name == TOKENIZER_CONFIG_FILE else 'eos_token_id'}: "

    @property
    def ids_of_generation(self) -> list[int]:
        """Token ids that ``generation_config.json`` names beside those that begin and end."""
        return [
            one
            for name, value in self.generation.items()
            for one in _ids_of_generation(name, value)
        ]

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @functools.cached_property
    def num_ids(self) -> int:
        """One more than the highest token id: where ids have gaps, more than there are tokens."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides ids and text, in hexadecimal."""
        config = json.dumps(self._deciding(), indent=2, ensure_ascii=False) + "\n"
        content = self.backend.to_str() + config + str(self.eos_token_ids)
        return hashlib.sha256(content.encode()).hexdigest()

    @functools.cached_property
    def special_token_ids(self) -> frozenset[int]:
        """Ids that stand for no text."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    @functools.cached_property
    def spelling(self) -> Spelling:
        """How tokens spell text."""
        return Spelling.of(self.backend)

    def bytes_of(self, token_id: int) -> bytes:
        """Bytes of text that a token stands for inside a text; special and unknown ones none."""
        content = self._bytes_of.get(token_id)
        if content is None:
            content = self._bytes_of[token_id] = self._spelled(token_id, is_first=False)
        return content

    def first_bytes_of(self, token_id: int) -> bytes:
        """The same for the first token of a text, which some decoders take a space from."""
        return self._spelled(token_id, is_first=True)

    def _spelled(self, token_id: int, *, is_first: bool) -> bytes:
        token = self.backend.id_to_token(token_id)
        if token is None or token_id in self.special_token_ids:
            return b""
        return self.spelling.bytes_of(token, is_first=is_first)

    @functools.cached_property
    def token_bytes(self) -> TokenBytes:
        """How much text its tokens can stand for."""
        with without_panics("the tokenizer"):
            return TokenBytes.of(self.backend)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; special tokens written out in it are recognised.

        ``add_special_tokens`` lets the tokenizer put its own around it, as it does to a text.
        Raises ``LibraryPanic`` where the library gives up.
        """
        with without_panics("the tokenizer"):
            return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_aside(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """``encode`` in a thread beside others: the library lets the interpreter's lock go.

        It does so for batches alone.
        """
        with without_panics("the tokenizer"):
            (encoded,) = self.backend.encode_batch_fast(
                [text], add_special_tokens=add_special_tokens
            )
            return encoded.ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids without special tokens; broken UTF-8 becomes U+FFFD."""
        with without_panics("the tokenizer"):
            return self.backend.decode(list(token_ids), skip_special_tokens=True)

    def decode_aside(self, token_ids: Sequence[int]) -> str:
        """``decode`` in a thread beside others, as ``encode_aside``."""
        with without_panics("the tokenizer"):
            (text,) = self.backend.decode_batch([list(token_ids)], skip_special_tokens=True)
            return text


def _ids_of_generation(name: str, value: Any) -> list[int]:
    """Token ids that an entry of ``generation_config.json`` names."""
    if not name.endswith(("_token_id", "_token_ids", "suppress_tokens")):
        return []
    return [one for one in (value if isinstance(value, list) else [value]) if type(one) is int]


def _is_kept(value: Any, gone: set[str]) -> bool:
    """Whether a fact names none of the tokens that are gone."""
    tokens = value if isinstance(value, list) else [value]
    return not gone & {token for token in tokens if isinstance(token, str)}

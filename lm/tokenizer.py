"""Text to token ids and back, over the ``tokenizers`` library's ``tokenizer.json``.

``Tokenizer`` adds what the library leaves to its callers: which tokens begin and end a text, a
fingerprint for the manifest, and the bytes of each token. ``lm.incremental`` streams text.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer as Backend

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"


class Tokenizer:
    """A ``tokenizers`` tokenizer with its special tokens named."""

    def __init__(
        self,
        backend: Backend,
        *,
        bos_token_id: int | None,
        eos_token_ids: Sequence[int],
        chat_template: str | None = None,
    ) -> None:
        self.backend = backend
        self.bos_token_id = bos_token_id
        self.eos_token_ids = tuple(eos_token_ids)
        self.chat_template = chat_template
        self.bytes_of: dict[int, bytes] = {}
        """Bytes of the tokens that were decoded so far, see ``lm.incremental``."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a directory with ``tokenizer.json``, or such a file alone.

        Special tokens come from ``generation_config.json`` and ``tokenizer_config.json`` beside
        it. Raises ``ValueError`` if the file is missing or is no tokenizer.
        """
        file = path / TOKENIZER_FILE if path.is_dir() else path
        if not file.is_file():
            raise ValueError(f"no tokenizer at {file}")
        try:
            backend = Backend.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{file} is not a tokenizer: {error}") from error
        backend.no_truncation()  # a saved limit would cut every longer text without a word
        backend.no_padding()
        config = _read_json(file.parent / TOKENIZER_CONFIG_FILE)
        generation = _read_json(file.parent / "generation_config.json")
        eos = generation.get("eos_token_id")
        if eos is None:
            eos = _token_id(backend, config.get("eos_token"))
        return cls(
            backend,
            bos_token_id=_token_id(backend, config.get("bos_token")),
            eos_token_ids=[] if eos is None else eos if isinstance(eos, list) else [eos],
            chat_template=_chat_template(file.parent, config),
        )

    def save(self, directory: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, readable by transformers."""
        (directory / TOKENIZER_FILE).write_text(self.backend.to_str(pretty=True), "utf-8")
        (directory / TOKENIZER_CONFIG_FILE).write_text(self.config_json(), "utf-8")

    def config_json(self) -> str:
        """The text of ``tokenizer_config.json``."""
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
        return json.dumps(config, indent=2, ensure_ascii=False) + "\n"

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides ids and text, in hexadecimal."""
        content = self.backend.to_str() + self.config_json() + str(self.eos_token_ids)
        return hashlib.sha256(content.encode()).hexdigest()

    @functools.cached_property
    def special_token_ids(self) -> frozenset[int]:
        """Ids that stand for no text."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; special tokens written out in it are recognised."""
        return self.backend.encode(text).ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids without special tokens; broken UTF-8 becomes U+FFFD."""
        return self.backend.decode(list(token_ids), skip_special_tokens=True)


def _token_id(backend: Backend, token: str | dict[str, Any] | None) -> int | None:
    """Id of a token that a config names, as a string or in transformers' older object form."""
    content = token["content"] if isinstance(token, dict) else token
    return None if content is None else backend.token_to_id(content)


def _chat_template(directory: Path, config: dict[str, Any]) -> str | None:
    """Template from its own file, as transformers 5 writes it, or from the config."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    template = config.get("chat_template")
    return template if isinstance(template, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content

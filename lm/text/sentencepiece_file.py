"""A ``tokenizer.model`` of SentencePiece without a ``tokenizer.json``, read through transformers.

transformers rebuilds such a vocabulary as a ``tokenizers`` one and does not get every kind right:
what is made of it here is held against SentencePiece itself on texts of many kinds, and refused
if ids differ.
"""

import importlib
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, processors

FILE = "tokenizer.model"
PROBES = (
    "Once upon a time, 1234 of them said: it's not so.",
    "  two spaces  and more\tof\n\nwhite space \n",
    "naïve café, 日本語 😀 e\u0301 ▁ x",
    "def f(a):\n    return {a: [1, 2.5e-3]}  # {{}}",
    "",
    " ",
)
MAX_SYMBOLS = 256


def read_sentencepiece(path: Path) -> tuple[Backend, dict[str, Any]]:
    """The vocabulary, and its begin and end tokens as a tokenizer's config names them.

    Raises ``ValueError`` naming the file if a library is missing, or reads it in another way than
    SentencePiece does.
    """
    try:
        sentencepiece = importlib.import_module("sentencepiece")
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(f"{path}: needs {error.name}; run: pip install '.[import]'") from error
    try:
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
        made = transformers.LlamaTokenizer.from_pretrained(path.parent, local_files_only=True)
    except Exception as error:  # the file's bytes decide which
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path}: not a vocabulary that can be read: {reason}") from error
    probes = [*PROBES, *_probes_of_symbols(theirs)]
    for backend in (_as_spelled(made), _unigram(theirs, made)):
        if all(_ids(backend, text) == theirs.encode(text) for text in probes):
            ids = {"bos_token": theirs.bos_id(), "eos_token": theirs.eos_id()}
            return backend, {name: theirs.id_to_piece(one) for name, one in ids.items() if one >= 0}
    raise ValueError(
        f"{path}: the tokenizers library reads it in another way than SentencePiece does; save a "
        "tokenizer.json where the model was made"
    )


def _probes_of_symbols(theirs: Any) -> list[str]:
    """Texts with the symbols that the vocabulary's makers named: they have no score."""
    symbols = [
        theirs.id_to_piece(one)
        for one in range(theirs.get_piece_size())
        if not theirs.get_score(one)
        and not (theirs.is_control(one) or theirs.is_byte(one) or theirs.is_unknown(one))
    ]
    return [f"a{symbol}b {symbol} to" for symbol in symbols[:MAX_SYMBOLS]]


def _ids(backend: Backend, text: str) -> list[int]:
    return backend.encode(text, add_special_tokens=False).ids


def _as_spelled(made: Any) -> Backend:
    """What transformers makes of it, with a space before every text, as SentencePiece has it."""
    backend = Backend.from_str(made.backend_tokenizer.to_str())
    return _spaced(backend)


def _unigram(theirs: Any, made: Any) -> Backend:
    """The pieces and their scores as a Unigram vocabulary, which transformers takes for a BPE."""
    ids = range(theirs.get_piece_size())
    pieces = [(theirs.id_to_piece(one), theirs.get_score(one)) for one in ids]
    unknown = theirs.unk_id()
    backend = Backend(models.Unigram(pieces, unk_id=unknown, byte_fallback=True))
    special = [one for one in ids if theirs.is_control(one) or one == unknown]
    backend.add_special_tokens([theirs.id_to_piece(one) for one in special])
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    around = {
        "begin": theirs.bos_id() if made.add_bos_token else -1,
        "end": theirs.eos_id() if made.add_eos_token else -1,
    }
    names = {where: theirs.id_to_piece(one) for where, one in around.items() if one >= 0}
    if names:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{names.get('begin', '')} $A {names.get('end', '')}".strip(),
            special_tokens=[(name, around[where]) for where, name in names.items()],
        )
    return _spaced(backend)


def _spaced(backend: Backend) -> Backend:
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.pre_tokenizer = None
    return backend

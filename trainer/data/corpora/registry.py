"""Which corpus a recipe's source names."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from trainer.data.corpora import code, file, math, shakespeare
from trainer.data.corpora.split import Split, shorten
from trainer.recipe.sections import SourceConfig

CORPORA: Mapping[str, Callable[[SourceConfig], Split]] = MappingProxyType(
    {
        "shakespeare": shakespeare.read,
        "code": code.read,
        "math": math.read,
        "file": file.read,
    }
)
"""By the word before the colon of ``SourceConfig.corpus``."""


def open_corpus(source: SourceConfig) -> Split:
    """Training and validation text of a source.

    Raises ``ValueError`` if the corpus is unknown, missing, empty or not text.
    """
    kind = source.corpus.partition(":")[0]
    if kind not in CORPORA:
        known = ", ".join(CORPORA)
        raise ValueError(
            f"source {source.name!r}: unknown corpus {source.corpus!r}; one of {known}"
        )
    split = CORPORA[kind](source)
    if source.max_bytes is not None:
        split = shorten(split, source.max_bytes)
    for name, documents in (("training", split.train), ("validation", split.validation)):
        if not any(documents):
            raise ValueError(f"source {source.name!r} ({source.corpus}): no {name} text")
    return split

"""A recipe's text, opened: tokenizer, training micro-batches, held-out batches."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType

import torch
from rich.console import Console
from torch import Tensor

from lm.huggingface import hub
from lm.text.tokenizer import Tokenizer
from lm.volume import Step, load_tokenizer
from trainer.data.batches import Batches
from trainer.data.corpora import Split, open_corpus
from trainer.data.token_files import TokenSource, bytes_of_tokens, check_fits, encode_split
from trainer.data.token_windows import validation_batches
from trainer.data.tokenizer_source import TRAIN, WEIGHTS, named_tokenizer, resolve_tokenizer
from trainer.recipe.schema import Recipe
from trainer.recipe.sections import SourceConfig

TOKENIZER_REPLACED = "tokenizer_replaced"
"""Flag of a run whose tokenizer is not the one that its recipe names."""


class Data:
    """What a run trains on and is measured by."""

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        sources: Sequence[TokenSource],
        *,
        flags: tuple[str, ...] = (),
        hashes: Mapping[str, str] = MappingProxyType({}),
        other_line_ends: Sequence[str] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.hashes = dict(hashes)
        """SHA-256 of what was read from outside the volume, by what a recipe calls it."""
        self.other_line_ends = tuple(other_line_ends)
        """Of these, the sources whose line ends were changed."""
        self.flags = flags
        """What the manifest says of the data."""
        self.token_bytes = torch.from_numpy(bytes_of_tokens(tokenizer))
        """Bytes of text that each token id stands for, int64 [V]."""
        self._sources = sources
        self._batch = recipe.batch
        self._batches = Batches.from_recipe(recipe, sources)

    def micro_batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a micro-batch, int64 [B, T]; a function of the seed and index."""
        return self._batches.micro_batch(index)

    def validation(self, max_tokens: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Held-out inputs and targets, int64 [B, T], the same ones every time.

        ``None`` is all of the held-out text; otherwise the sources share ``max_tokens`` evenly.
        """
        share = None if max_tokens is None else max_tokens // len(self._sources)
        for source in self._sources:
            yield from validation_batches(
                source.validation, self._batch.length, self._batch.micro_batch, max_tokens=share
            )


def with_corpus(recipe: Recipe, corpus: str) -> Recipe:
    """The recipe on one other corpus (``file:PATH``, ``code``, ``math``) instead of its sources.

    Raises ``ValueError`` if it is not a corpus that a recipe could name.
    """
    name = corpus.partition(":")[0]
    values = recipe.to_dict() | {"sources": [{"name": name, "corpus": corpus}], "stages": []}
    return Recipe.from_dict(values)


def open_data(
    recipe: Recipe,
    step: Step | None,
    cache: Path,
    *,
    console: Console,
    note: Callable[[str], None],
) -> Data:
    """Read the corpora and encode them.

    Args:
        recipe: names corpora and tokenizer.
        step: whose tokenizer is taken, if there is one; a trained tokenizer is trained once.
        cache: where encoded text is kept.
        console: where slow encoding shows its progress.
        note: told what was read, a line each.

    Raises ``ValueError`` if a corpus or the tokenizer cannot be had or does not fit the recipe.
    """
    splits = {source.name: open_corpus(source) for source in recipe.sources}
    for name, split in splits.items():
        note(f"{name}: {split.description}")
    tokenizer, flags = _open_tokenizer(recipe, step, splits, note)
    sources = [
        encode_split(name, split, tokenizer, cache, console=console)
        for name, split in splits.items()
    ]
    check_fits(sources, tokenizer, length=recipe.batch.length, vocab_size=recipe.model.vocab_size)
    hashes = data_hashes(recipe, splits)
    others = [_named(one) for one in recipe.sources if splits[one.name].changes_line_ends]
    return Data(recipe, tokenizer, sources, flags=flags, hashes=hashes, other_line_ends=others)


def data_hashes(recipe: Recipe, splits: Mapping[str, Split]) -> dict[str, str]:
    """What a resumed run has to find again: each source's text, and a tokenizer at a path."""
    hashes = {_named(one): splits[one.name].sha256 for one in recipe.sources}
    source = recipe.tokenizer.source
    if source in {TRAIN, WEIGHTS} or source.startswith(hub.PREFIX):
        return hashes
    with contextlib.suppress(ValueError):  # the run has a copy, and needs the path no more
        hashes[f"tokenizer {source}"] = named_tokenizer(source).fingerprint
    return hashes


def changed_data(recipe: Recipe, saved: Mapping[str, str], data: Data, free: Set[str]) -> list[str]:
    """Names of what is not what it was; what a recipe names newly was not anything before.

    A run without hashes was saved when line ends were kept. ``free`` are names of sources whose
    text the recipe itself changes.
    """
    may_change = {_named(one) for one in recipe.sources if one.name in free}
    changed = [one for one, was in saved.items() if data.hashes.get(one, was) != was]
    if not saved:
        changed += data.other_line_ends
    return [one for one in changed if one not in may_change]


def _named(source: SourceConfig) -> str:
    return f"source {source.name!r} ({source.corpus})"


def _open_tokenizer(
    recipe: Recipe, step: Step | None, splits: Mapping[str, Split], note: Callable[[str], None]
) -> tuple[Tokenizer, tuple[str, ...]]:
    """A step's tokenizer, else the recipe's; flagged for good if another had to replace it."""
    if step is not None:
        if step.number == 0 and recipe.tokenizer.source != WEIGHTS:
            note(f"tokenizer: that of {step.name}, not the recipe's {recipe.tokenizer.source!r}")
        kept = set(step.manifest.details.flags) & {TOKENIZER_REPLACED}
        return load_tokenizer(step), tuple(kept)
    replaced: list[str] = []
    texts = (text for split in splits.values() for text in split.train)
    tokenizer = resolve_tokenizer(recipe.tokenizer, texts, on_fallback=replaced.append)
    for reason in replaced:
        note(reason)
    return tokenizer, (TOKENIZER_REPLACED,) if replaced else ()

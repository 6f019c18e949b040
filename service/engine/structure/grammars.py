"""Grammars over one tokenizer: read and checked once, kept for those that ask for them again."""

import contextlib
import functools
from typing import TYPE_CHECKING, cast

from lm.panics import without_panics
from lm.text.tokenizer import Tokenizer
from service.engine.structure.closing.matches import matches_of
from service.engine.structure.closing.promise import Promise, first_closing
from service.engine.structure.closing.search import Closing
from service.engine.structure.closing.spellings import Spellings
from service.engine.structure.constraint import NOT_SUPPORTED, Constraint, Prepared, in_a_line
from service.engine.structure.schemas.differing import differing, has_unique_items

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

NOTHING_FITS = "NoExtensionBias"
"""How the library says that no token can begin a text."""
MAX_KEPT = 8
"""Grammars kept ready, for those that are asked for again and for the answers of one request."""
MAX_CLOSINGS = 1024
"""Shortest ends kept ready: found when a request is checked, used when it begins."""
MAX_STEP_FUEL = 50_000
"""The library's measure of work for one token: some milliseconds, in which others wait."""
MAX_STATES = 20_000
"""Of a grammar's automaton, of up to two kilobytes each."""
_TRIE = "llguidance"


class NoStructures(ValueError):
    """The library does not know how a tokenizer's tokens are spelled."""


class Grammars:
    """Grammars over one tokenizer, whose trie of tokens is built when it is first needed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._begun = functools.lru_cache(MAX_KEPT)(self._begin)
        self._first_closing = functools.lru_cache(MAX_CLOSINGS)(self._shortest)
        self._matches = functools.lru_cache(MAX_CLOSINGS)(matches_of)

    def warm_up(self) -> None:
        """Build the trie now: it takes half a second, in which no other thread runs."""
        with contextlib.suppress(NoStructures):  # ``check`` says so to who asks for one
            _ = self._trie

    def check(self, grammar: str) -> Prepared:
        """Raise ``ValueError`` if a grammar is none, allows no text or takes too much to begin.

        ``NoStructures``, which is one, where the library cannot use such a tokenizer.

        What it takes to read it and to find its first tokens is spent here, in the caller's thread;
        who begins with what this gives spends none of it again.
        """
        matcher = self._begun(grammar)
        problem = matcher.get_error()
        if problem.startswith(NOTHING_FITS):
            raise ValueError("no text has it")
        if problem:
            raise ValueError(in_a_line(problem))
        return Prepared(matcher, self._first_closing(grammar), self._matches(grammar))

    def begin(
        self, grammar: str, budget: int | None = None, prepared: Prepared | None = None
    ) -> Constraint:
        """Stand at the beginning of a grammar that was checked.

        With a ``budget`` in tokens the answer ends whole within it, where that can be.
        ``prepared`` is what the check gave.
        """
        begun = self._begun(grammar) if prepared is None else prepared.matcher
        promise = None
        if budget is not None and not begun.is_error():
            first = self._first_closing(grammar) if prepared is None else prepared.closing
            matches = self._matches(grammar) if prepared is None else prepared.matches
            ends = self._trie.eos_tokens
            promise = Promise(self._spellings, first, budget, ends, matches)
        return Constraint(begun, promise, self._tokenizer.eos_token_ids)

    def _shortest(self, grammar: str) -> Closing | None:
        with without_panics("the structure"):
            return first_closing(self._begun(grammar), self._spellings, self._matches(grammar))

    def _begin(self, grammar: str) -> "LLMatcher":
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(
            step_lexer_fuel=MAX_STEP_FUEL, max_lexer_states=MAX_STATES, verbose_errors=False
        )
        with without_panics("the structure"):
            matcher = LLMatcher(self._trie, grammar, log_level=0, limits=limits)
            if matcher.is_error():
                return matcher
            matcher.compute_logit_bias()
        if has_unique_items(grammar):  # it has all the methods that are used
            return cast("LLMatcher", differing(matcher, grammar, self._spellings))
        return matcher

    @functools.cached_property
    def _spellings(self) -> Spellings:
        return Spellings(self._trie, self._tokenizer.eos_token_ids)

    @functools.cached_property
    def _trie(self) -> "LLTokenizer":
        """One for all models with this tokenizer."""
        from llguidance import LLTokenizer

        made = self._tokenizer.companions.get(_TRIE)
        if made is None:
            ends = list(self._tokenizer.eos_token_ids)
            try:
                made = LLTokenizer(self._tokenizer.backend.to_str(), eos_token=ends or None)
            except ValueError as error:
                kind = type(self._tokenizer.backend.model).__name__
                raise NoStructures(
                    f"no structure can be held with this model's tokenizer, a {kind} vocabulary"
                ) from error
            self._tokenizer.companions[_TRIE] = made
        assert isinstance(made, LLTokenizer), "nobody else writes there"
        return made


def verdict_on(error: ValueError) -> str:
    """What an error of ``check`` says of a structure: wrong, or not supported here."""
    is_unknown = isinstance(error, NoStructures) or str(error).startswith(NOT_SUPPORTED)
    if is_unknown or "not supported" in str(error):
        return "is not supported here"
    return "makes no sense"

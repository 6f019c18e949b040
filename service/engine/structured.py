"""Holds an answer to a JSON schema or a regular expression: an adapter of llguidance.

A grammar is a string (plain data, so that it may cross the engine's border). For each token of
an answer the library says which tokens may come next; all others get no probability.
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lm.tokenizer import Tokenizer
from service.engine.rewriting import rewritten, with_ascii_digits

if TYPE_CHECKING:  # imported where it is used: most engines never meet a grammar
    from llguidance import LLMatcher, LLTokenizer

MAX_REASON = 300
"""Characters of the library's reason why a grammar is none."""
NOTHING_FITS = "NoExtensionBias"
"""How the library says that no token can begin a text."""
NOT_SUPPORTED = ("Unimplemented keys", "Unknown format")
"""How it begins to say that it knows no such schema."""
MAX_KEPT = 8
"""Grammars kept ready, for those that are asked for again and for the answers of one request."""
MAX_STEP_FUEL = 50_000
"""The library's measure of work for one token: some milliseconds, in which others wait."""
MAX_STATES = 20_000
"""Of a grammar's automaton, of up to two kilobytes each."""

_COMPACT: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,  # where it cannot be proved that one excludes another
}
"""One way of writing every value: a small model left free to indent may never stop to."""


def schema_grammar(schema: Mapping[str, Any], *, implies_objects: bool = False) -> str:
    """Grammar of the JSON texts that a schema allows; ``check`` says whether it is one.

    ``implies_objects`` as in ``engine.rewriting``. Raises ``ValueError`` for one nested too deeply.
    """
    from llguidance import LLMatcher

    try:
        plain = rewritten(schema, implies_objects=implies_objects)
    except RecursionError as error:
        raise ValueError("the schema is nested too deeply") from error
    return LLMatcher.grammar_from_json_schema(plain, overrides=_COMPACT)


def regex_grammar(pattern: str) -> str:
    """Grammar of the texts that match a regular expression as a whole.

    The dialect is Rust's, but that ``\\d`` is an ASCII digit.
    """
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_regex(with_ascii_digits(pattern))


class Constraint:
    """How far one answer has come through its grammar."""

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher

    @property
    def is_complete(self) -> bool:
        """Whether nothing but an end may follow."""
        return self._matcher.is_stopped()

    def restrict(self, logits: Tensor) -> None:
        """Put -inf, in place, where a token of logits [V] may not follow."""
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        allowed = allowed[: len(logits)]  # a tokenizer may have ids that the model has not
        logits[: len(allowed)].masked_fill_(allowed.to(logits.device) == 0, -torch.inf)
        logits[len(allowed) :] = -torch.inf

    def accept(self, token_id: int) -> bool:
        """Go on past the chosen token, an end too; false if the grammar was too much.

        ``problem`` says more. What is too much lets nothing but an end follow.
        """
        return not self._matcher.is_error() and self._matcher.consume_token(token_id)

    @property
    def problem(self) -> str:
        """Why it cannot go on."""
        return f"the structure is too complex: {_in_a_line(self._matcher.get_error())}"


class Grammars:
    """Grammars over one tokenizer, whose trie of tokens is built when it is first needed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._begun = functools.lru_cache(MAX_KEPT)(self._begin)

    def check(self, grammar: str) -> None:
        """Raise ``ValueError`` if a grammar is none, allows no text or takes too much to begin.

        What it takes to read it and to find its first tokens is spent here, in the caller's thread.
        """
        problem = self._begun(grammar).get_error()
        if problem.startswith(NOTHING_FITS):
            raise ValueError("no text has it")
        if problem:
            raise ValueError(_in_a_line(problem))

    def begin(self, grammar: str) -> Constraint:
        """Stand at the beginning of a grammar that was checked."""
        return Constraint(self._begun(grammar).deep_copy())

    def _begin(self, grammar: str) -> "LLMatcher":
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(
            step_lexer_fuel=MAX_STEP_FUEL, max_lexer_states=MAX_STATES, verbose_errors=False
        )
        matcher = LLMatcher(self._trie, grammar, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_logit_bias()
        return matcher

    @functools.cached_property
    def _trie(self) -> "LLTokenizer":
        from llguidance import LLTokenizer

        ends = list(self._tokenizer.eos_token_ids)
        return LLTokenizer(self._tokenizer.backend.to_str(), eos_token=ends or None)


def _in_a_line(problem: str) -> str:
    """A reason of the library's, without its drawings and all of it that few would read."""
    lines = [line.strip() for line in problem.splitlines() if line.strip(" ^|")]
    return " ".join(lines)[:MAX_REASON]

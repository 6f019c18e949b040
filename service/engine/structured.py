"""Holds an answer to a JSON schema or a regular expression: an adapter of llguidance.

A grammar is a string (plain data, so that it may cross the engine's border). For each token of
an answer the library says which tokens may come next; all others get no probability.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from lm.tokenizer import Tokenizer

MAX_REASON = 300
"""Characters of the library's reason why a grammar is none."""

_COMPACT: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""One way of writing every value: a small model left free to indent may never stop to."""


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """Grammar of the JSON texts that a schema allows; ``check`` says whether it is one."""
    return LLMatcher.grammar_from_json_schema(dict(schema), overrides=_COMPACT)


def regex_grammar(pattern: str) -> str:
    """Grammar of the texts that match a regular expression as a whole (Rust's dialect)."""
    return LLMatcher.grammar_from_regex(pattern)


class Constraint:
    """How far one answer has come through its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_complete(self) -> bool:
        """Whether nothing but an end may follow."""
        return self._matcher.is_stopped()

    def restrict(self, logits: Tensor) -> None:
        """Put -inf, in place, where a token of logits [V] may not follow."""
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        logits[: len(allowed)].masked_fill_(allowed.to(logits.device) == 0, -torch.inf)
        logits[len(allowed) :] = -torch.inf

    def accept(self, token_id: int) -> bool:
        """Go on past the chosen token; false if the grammar was too much, see ``problem``."""
        return self._matcher.consume_token(token_id)

    @property
    def problem(self) -> str:
        """Why it cannot go on."""
        return f"the structure is too complex: {self._matcher.get_error()}"


class Grammars:
    """Grammars over one tokenizer, whose trie of tokens is built when it is first needed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def check(self, grammar: str) -> None:
        """Raise ``ValueError`` with the library's reason if a grammar is none."""
        problem = LLMatcher.validate_grammar(grammar, self._trie)
        if problem and not problem.startswith("WARNING"):
            lines = [line.strip() for line in problem.splitlines() if line.strip(" ^|")]
            raise ValueError(" ".join(lines)[:MAX_REASON])

    def begin(self, grammar: str) -> Constraint:
        """Stand at the beginning of a grammar that was checked."""
        return Constraint(LLMatcher(self._trie, grammar, log_level=0))

    @functools.cached_property
    def _trie(self) -> LLTokenizer:
        ends = list(self._tokenizer.eos_token_ids)
        return LLTokenizer(self._tokenizer.backend.to_str(), eos_token=ends or None)

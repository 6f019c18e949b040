"""Holds an answer to a JSON schema or a regular expression: an adapter of llguidance.

A grammar is a string (plain data, so that it may cross the engine's border). For each token of
an answer the library says which tokens may come next; all others get no probability.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lm.panics import is_panic, without_panics
from service.engine.structure.closing.matches import Matches
from service.engine.structure.closing.promise import Promise
from service.engine.structure.closing.search import Closing
from service.engine.structure.schemas.rewriting import rewritten, with_ascii_digits

if TYPE_CHECKING:  # imported where it is used: most engines never meet a grammar
    from llguidance import LLMatcher

MAX_REASON = 300
"""Characters of the library's reason why a grammar is none."""
NOT_SUPPORTED = ("Unimplemented keys", "Unknown format")
"""How it begins to say that it knows no such schema."""
MAX_DRAWS = 8
"""Of a token, while those drawn leave too much to write; then one is taken that is known to do."""


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
    with without_panics("the structure"):
        return LLMatcher.grammar_from_json_schema(plain, overrides=_COMPACT)


def regex_grammar(pattern: str) -> str:
    """Grammar of the texts that match a regular expression as a whole.

    The dialect is Rust's, but that ``\\d`` is an ASCII digit.
    """
    from llguidance import LLMatcher

    with without_panics("the structure"):
        return LLMatcher.grammar_from_regex(with_ascii_digits(pattern))


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A grammar that was read and checked; the requests that ask for it hold it."""

    matcher: "LLMatcher"
    closing: Closing | None
    """The shortest end that was found of a whole answer."""
    matches: Matches
    """Of its patterns, by which other ends are found."""


class Constraint:
    """How far one answer has come through its grammar."""

    def __init__(
        self, begun: "LLMatcher", promise: Promise | None = None, end_ids: Sequence[int] = ()
    ) -> None:
        """``begun`` stands at the beginning, for others too.

        ``promise`` where the answer is to end whole within a budget. ``end_ids`` of the tokenizer:
        each ends the answer, be it ordinary text otherwise.
        """
        self._begun = begun
        self._promise = promise
        self._end_ids = end_ids
        self._has_panicked = False

    @functools.cached_property
    def _matcher(self) -> "LLMatcher":
        """Its own: a copy takes up to a millisecond, which a waiting answer need not take yet."""
        return self._begun.deep_copy()

    @property
    def is_complete(self) -> bool:
        """Whether nothing but an end may follow."""
        return self._matcher.is_stopped()

    @property
    def is_whole(self) -> bool:
        """Whether the text so far is one that the grammar allows."""
        if self._has_panicked or self._matcher.is_error():
            return False
        return bool(self._matcher.is_accepting())

    @property
    def shortest(self) -> int | None:
        """Tokens after which the text is whole, if a way there is known that the budget allows."""
        return None if self._promise is None else self._promise.shortest

    def restrict(self, logits: Tensor) -> None:
        """Put -inf, in place, where a token of logits [V] may not follow."""
        try:
            bias = self._matcher.compute_logit_bias()
            may_end = self.is_whole
        except BaseException as error:
            if not is_panic(error):
                raise
            self._has_panicked = True  # whatever is drawn now, ``accept`` ends the answer
            return
        allowed = torch.frombuffer(bytearray(bias), dtype=torch.uint8)
        allowed = allowed[: len(logits)]  # a tokenizer may have ids that the model has not
        logits[: len(allowed)].masked_fill_(allowed.to(logits.device) == 0, -torch.inf)
        logits[len(allowed) :] = -torch.inf
        if not may_end:  # the library lets an end that is ordinary text follow as text
            logits[[end for end in self._end_ids if end < len(logits)]] = -torch.inf

    def choose(self, logits: Tensor, draw: Callable[[Tensor], int]) -> int:
        """Draw from restricted logits [V] a token after which the answer can still end whole.

        Each one that is not gets -inf in place; see ``engine.closing``.
        """
        if self._has_panicked:
            return draw(logits)
        try:
            return self._choose(logits, draw)
        except BaseException as error:
            if not is_panic(error):
                raise
            self._has_panicked = True  # whatever is drawn now, ``accept`` ends the answer
            return draw(logits)

    def _choose(self, logits: Tensor, draw: Callable[[Tensor], int]) -> int:
        takes = getattr(self._matcher, "takes", None)
        if takes is not None:
            draw = functools.partial(_draw_taken, takes, draw)
        token_id = draw(logits)
        if self._promise is None:
            return token_id
        for _ in range(MAX_DRAWS):
            if self._matcher.is_error() or self._promise.allows(self._matcher, token_id):
                return token_id
            logits[token_id] = -torch.inf
            if bool(torch.isneginf(logits).all()):
                break
            token_id = draw(logits)
        return self._promise.way_out(self._matcher, token_id)

    def accept(self, token_id: int) -> bool:
        """Go on past the chosen token, an end too; false if the grammar was too much.

        ``problem`` says more. What is too much lets nothing but an end follow.
        """
        if self._has_panicked:
            return False
        try:
            if self._promise is not None:
                self._promise.accepted(token_id)
            return not self._matcher.is_error() and self._matcher.consume_token(token_id)
        except BaseException as error:
            if not is_panic(error):
                raise
            self._has_panicked = True
            return False

    @property
    def problem(self) -> str:
        """Why it cannot go on."""
        if self._has_panicked:
            return "the structure cannot be followed here"
        return f"the structure is too complex: {in_a_line(self._matcher.get_error())}"


def _draw_taken(takes: Callable[[int], bool], draw: Callable[[Tensor], int], logits: Tensor) -> int:
    """Draw from logits [V] a token that ``takes`` lets through; each other gets -inf in place."""
    token_id = draw(logits)
    while not takes(token_id):
        logits[token_id] = -torch.inf
        if bool(torch.isneginf(logits).all()):
            break
        token_id = draw(logits)
    return token_id


def in_a_line(problem: str) -> str:
    """A reason of the library's, without its drawings and all of it that few would read."""
    lines = [line.strip() for line in problem.splitlines() if line.strip(" ^|")]
    return " ".join(lines)[:MAX_REASON]

"""Arithmetic and word problems with worked answers, generated from a fixed seed.

The same text on every machine: only ``Random.random`` is drawn from, the one method whose values
Python promises to keep. No problem comes twice, so none of the held-out ones was trained on.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from trainer.data.corpora.split import Split, split_tail
from trainer.recipe.sections import SourceConfig

T = TypeVar("T")
SEED = 20_260_101
DEFAULT_BYTES = 2_000_000
_NAMES = ("Ada", "Ben", "Chloe", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas")
_THINGS = ("apples", "books", "coins", "marbles", "pencils", "shells", "stamps", "tickets")


def read(source: SourceConfig) -> Split:
    """About ``max_bytes`` of problems, the last ones held out."""
    limit = source.max_bytes or DEFAULT_BYTES
    documents = []
    for problem in problems(SEED):
        documents.append(problem)
        limit -= len(problem)
        if limit <= 0:
            break
    description = (
        f"{len(documents)} generated problems, the last {source.validation_fraction:.0%} held out"
    )
    return split_tail(documents, source.validation_fraction, description)


def problems(seed: int) -> Iterator[str]:
    """Endless distinct problems; each is a question and an answer that ends in its number."""
    dice = Dice(seed)
    seen: set[str] = set()
    while True:
        problem = dice.choose(_KINDS)(dice)
        if problem not in seen:
            seen.add(problem)
            yield problem


class Dice:
    """Uniform draws that are the same under every version of Python."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return low + int(self._random.random() * (high - low + 1))

    def choose(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.between(0, len(options) - 1)]


def _document(question: str, answer: str) -> str:
    return f"Question: {question}\nAnswer: {answer}\n"


def _sum(dice: Dice) -> str:
    a, b = dice.between(1, 9_999), dice.between(1, 9_999)
    return _document(f"What is {a} + {b}?", f"{a} + {b} = {a + b}")


def _difference(dice: Dice) -> str:
    a, b = dice.between(1, 9_999), dice.between(1, 9_999)
    return _document(f"What is {a} - {b}?", f"{a} - {b} = {a - b}")


def _product(dice: Dice) -> str:
    a, b = dice.between(2, 999), dice.between(2, 99)
    tens, ones = b // 10 * 10, b % 10
    steps = f"{a} * {tens} = {a * tens}, {a} * {ones} = {a * ones}, " if tens and ones else ""
    return _document(f"What is {a} * {b}?", f"{steps}{a} * {b} = {a * b}")


def _quotient(dice: Dice) -> str:
    divisor, quotient = dice.between(2, 99), dice.between(2, 999)
    rest = dice.between(0, divisor - 1)
    whole = divisor * quotient + rest
    answer = f"{divisor} * {quotient} = {divisor * quotient}, so it is {quotient}"
    return _document(f"What is {whole} divided by {divisor}?", f"{answer} with remainder {rest}")


def _equation(dice: Dice) -> str:
    factor, x, shift = dice.between(2, 20), dice.between(1, 99), dice.between(1, 99)
    total = factor * x + shift
    return _document(
        f"Solve {factor}x + {shift} = {total}.",
        f"{factor}x = {total} - {shift} = {factor * x}, x = {factor * x} / {factor} = {x}",
    )


def _give_away(dice: Dice) -> str:
    name, thing = dice.choose(_NAMES), dice.choose(_THINGS)
    had, found = dice.between(20, 500), dice.between(2, 200)
    gave = dice.between(1, had)
    return _document(
        f"{name} has {had} {thing}, gives {gave} of them away and then finds {found} more. "
        f"How many {thing} does {name} have now?",
        f"{had} - {gave} = {had - gave}, {had - gave} + {found} = {had - gave + found}",
    )


def _shopping(dice: Dice) -> str:
    name, first = dice.choose(_NAMES), dice.choose(_THINGS)
    second = dice.choose([thing for thing in _THINGS if thing != first])
    m, p, n, q = (dice.between(2, 30) for _ in range(4))
    return _document(
        f"{name} buys {m} {first} at {p} dollars each and {n} {second} at {q} dollars each. "
        "How many dollars is that in all?",
        f"{m} * {p} = {m * p}, {n} * {q} = {n * q}, {m * p} + {n * q} = {m * p + n * q}",
    )


def _journey(dice: Dice) -> str:
    name, speed, hours = dice.choose(_NAMES), dice.between(10, 120), dice.between(2, 12)
    more = dice.between(1, 200)
    return _document(
        f"{name} rides {hours} hours at {speed} km an hour and then {more} km more. "
        "How many km is the whole way?",
        f"{hours} * {speed} = {hours * speed}, {hours * speed} + {more} = {hours * speed + more}",
    )


_KINDS: tuple[Callable[[Dice], str], ...] = (
    _sum,
    _difference,
    _product,
    _quotient,
    _equation,
    _give_away,
    _shopping,
    _journey,
)

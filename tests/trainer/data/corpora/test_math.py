import hashlib
import itertools
import re

from trainer.data.corpora import math
from trainer.recipe.sections import SourceConfig


def test_the_text_is_the_same_on_every_machine() -> None:
    text = "".join(itertools.islice(math.problems(math.SEED), 500))
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "cc94f3d6abaae2ba0a1ccb40736c29e1c1520a649a32cf663e9924d856abc4c9"


def test_no_problem_comes_twice_so_none_held_out_was_trained_on() -> None:
    split = math.read(SourceConfig(name="math", corpus="math", max_bytes=200_000))
    documents = split.train + split.validation
    assert len(set(documents)) == len(documents) > 1000
    assert split.validation


def test_every_equation_holds() -> None:
    equation = re.compile(r"(?<![\w.])(-?\d+) ([-+*/]) (-?\d+) = (-?\d+)\b")
    checked = 0
    for problem in itertools.islice(math.problems(7), 2000):
        for a, operation, b, result in equation.findall(problem.partition("Answer:")[2]):
            left, right = int(a), int(b)
            values = {"+": left + right, "-": left - right, "*": left * right}
            expected = values[operation] if operation in values else left // right
            assert expected == int(result), problem
            checked += 1
    assert checked > 3000


def test_the_size_is_what_the_source_asks_for() -> None:
    split = math.read(SourceConfig(name="math", corpus="math", max_bytes=10_000))
    assert 10_000 <= sum(map(len, split.train + split.validation)) < 10_500

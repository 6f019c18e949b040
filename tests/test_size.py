"""How large things are: wings, modules, functions, and what the README gives for an evening."""

import ast
import io
import re
import statistics
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 300
READING_LINES = range(1_800, 2_300)
"""Of the README's reading list: an evening's."""

CEILINGS = {
    "C++": 2_000,
    "lm": 390,
    "lm/huggingface": 410,
    "lm/machine": 260,
    "lm/model": 380,
    "lm/template": 360,
    "lm/text": 890,
    "lm/trial": 340,
    "lm/volume": 840,
    "nestling": 220,
    "playground": 690,
    "service": 860,
    "service/engine": 8_190,
    "service/http": 3_740,
    "service/models": 1_950,
    "service/observe": 610,
    "service/processes": 1_510,
    "service/requests": 600,
    "service/settings": 480,
    "trainer": 530,
    "trainer/convert": 2_160,
    "trainer/data": 870,
    "trainer/recipe": 760,
    "trainer/report": 640,
    "trainer/run": 1_140,
    "trainer/step": 860,
}
"""Code lines of each wing, all of it: of Python without blank lines, comments and docstrings, of
C++ without blank lines. A wing that has to grow past its ceiling says so here."""

SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(path: Path) -> int:
    """Lines with code on them: no blank ones, comments or docstrings."""
    text = path.read_text("utf-8")
    documentation = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in SILENT
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - documentation)


def wing_of(path: Path) -> str:
    """The folder below a program that a file is in, else the program."""
    return "/".join(path.relative_to(ROOT).parts[:-1][:2])


def test_every_wing_stays_below_its_ceiling() -> None:
    sizes: Counter[str] = Counter()
    for program in ("nestling", "lm", "trainer", "service", "playground"):
        for path in (ROOT / program).rglob("*"):
            if path.suffix == ".py":
                sizes[wing_of(path)] += code_lines(path)
            elif path.suffix in {".cpp", ".hpp"}:
                sizes["C++"] += sum(map(bool, path.read_text("utf-8").split("\n")))
    assert sizes.keys() == CEILINGS.keys()
    assert {wing: size for wing, size in sizes.items() if size > CEILINGS[wing]} == {}
    loose = {wing: size for wing, size in sizes.items() if size < 0.8 * CEILINGS[wing]}
    assert loose == {}, "a ceiling that holds nothing"


def test_the_reading_list_can_be_read_in_an_evening() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    part = readme.partition("### An evening's reading")[2].partition("\n## ")[0]
    listed = re.findall(r"`([\w/]+\.py)`", part)
    assert len(listed) == len(set(listed)) > 15
    assert sum(code_lines(ROOT / path) for path in listed) in READING_LINES


def test_modules_and_functions_stay_small() -> None:
    paths = [p for name in ("lm", "trainer", "service") for p in (ROOT / name).rglob("*.py")]
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in paths}
    assert statistics.median(lengths.values()) <= 100
    assert [path for path, length in lengths.items() if length > MAX_MODULE_LINES] == []
    too_long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert too_long == []

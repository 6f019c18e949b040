"""The promise "one repo you can read in an evening", held in numbers."""

import ast
import io
import statistics
import tokenize
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAX_CORE_LINES = 6300
MAX_FUNCTION_LINES = 60

EXTRAS = {
    "trainer": {
        *("journal", "log", "progress", "plot", "metrics", "tensorboard"),
        *("report", "events", "samples"),
        *("corpus", "tokenizer_source", "tokenizer_training", "pieces"),
        *("importing", "exporting", "speed", "smoke"),
        *("describe", "fit", "options", "peak", "__main__"),
    },
    "lm": {"chat", "foreign", "tokenizer_files", "sentencepiece_file", "template", "trial"},
    "service/engine": {
        *("gpu", "graphs", "native", "profile", "speculation", "structured", "rewriting"),
        *("closing", "schemas", "conditions"),
        *("sampling", "device_sampling"),
    },
}
"""Beside the core, by package: what people watch, texts and their tokenizers, imports and exports,
bounds on the programs of others, scaling down, faster forms of what is plain elsewhere (the
batched samplers are two of ``lm.sampling``), adapters of libraries, command lines."""

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


def test_the_core_can_be_read_in_an_evening() -> None:
    core = [
        path
        for package, extras in EXTRAS.items()
        for path in (ROOT / package).rglob("*.py")
        if not extras & {*path.relative_to(ROOT / package).with_suffix("").parts}
    ]
    assert len(core) > 50
    assert sum(map(code_lines, core)) < MAX_CORE_LINES


def test_modules_and_functions_stay_small() -> None:
    paths = [p for name in ("lm", "trainer", "service") for p in (ROOT / name).rglob("*.py")]
    assert statistics.median(len(p.read_text("utf-8").splitlines()) for p in paths) <= 100
    too_long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert too_long == []

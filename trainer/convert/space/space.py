"""``python -m trainer space EXPORT --output DIR``: a Space around an exported model."""

import argparse
import ast
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

import lm
from lm.volume.content import CONFIG_FILE, WEIGHTS_FILE
from trainer.convert.exporting.card import CARD_FILE
from trainer.convert.exporting.int8 import QUANTIZED_FILE

LM = Path(lm.__file__).parent
APP = Path(__file__).with_name("app.py")
OURS = "nestling"
MODEL_TYPES = ("llama", "gpt2", OURS)
WEIGHTS = (WEIGHTS_FILE, QUANTIZED_FILE)
REQUIREMENTS = ("torch", "safetensors", "gradio")
EXAMPLES = """\
examples:
  python -m trainer export tiny@best --format int8 --output ./tiny-int8
  python -m trainer space ./tiny-int8 --output ./tiny-space
  python ./tiny-space/app.py
      the page on port 7860, as the Space will show it
  hf upload me/tiny-space ./tiny-space --repo-type space
      publishes it

EXPORT is what export wrote as hf, fp16, bf16 or int8. Where transformers has no class for its
architecture, nestling's own decoder is copied into the Space.
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of ``space``."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer space",
        description="Write a Gradio Space for an exported model; it runs on a CPU by itself.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("export", type=Path, metavar="EXPORT", help="directory of the export")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="directory to write; must be new"
    )
    parser.add_argument("--title", help="of the Space (default: the export's name)")
    return parser


def write_space(export: Path, output: Path, *, title: str) -> None:
    """Write app, requirements, card, a copy of the model and, where it is needed, the decoder.

    Raises ``ValueError`` if the directory is no export that the app opens.
    """
    if output.exists():
        raise ValueError(f"--output {output} is there already; name another")
    config = _config(export)
    output.mkdir(parents=True)
    shutil.copytree(export, output / "model")
    shutil.copyfile(APP, output / "app.py")
    names = [*REQUIREMENTS, "tokenizers" if config["model_type"] == OURS else "transformers"]
    if config["model_type"] == OURS:
        for path in modules_of(APP):
            target = output / "lm" / path.relative_to(LM)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    if "quantization_config" in config:
        names.append("torchao")
    pins = [f"{name}=={_version(name)}\n" for name in names]
    (output / "requirements.txt").write_text("".join(pins), "utf-8")
    (output / CARD_FILE).write_text(_card(export, title), "utf-8")


def modules_of(program: Path) -> set[Path]:
    """Files of ``lm`` that a program imports, with what they import themselves."""
    found: set[Path] = set()
    waiting = [program]
    while waiting:
        tree = ast.parse(waiting.pop().read_text("utf-8"))
        new = {path for name in _imported(tree) for path in _files(name)} - found
        found |= new
        waiting += new
    return found


def _imported(tree: ast.Module) -> Iterator[str]:
    """Names of modules, and of what may be one, that a tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{one.name}" for one in node.names)


def _files(name: str) -> Iterator[Path]:
    """The file of a module of ``lm``, and those of the packages that it is in."""
    first, *parts = name.split(".")
    path = LM
    if first != LM.name:
        return
    yield path / "__init__.py"
    for part in parts:
        path /= part
        yield from (one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file())


def _config(export: Path) -> dict[str, object]:
    path = export / CONFIG_FILE
    if not path.is_file() or not any((export / name).is_file() for name in WEIGHTS):
        raise ValueError(
            f"{export} has no {CONFIG_FILE} and weights: export as hf, fp16, bf16 or int8"
        )
    config: dict[str, object] = json.loads(path.read_text("utf-8"))
    if config.get("model_type") not in MODEL_TYPES:
        raise ValueError(
            f"{export}: model_type {config.get('model_type')!r} is none that export writes"
        )
    return config


def _version(package: str) -> str:
    """As installed here, without a build's suffix that PyPI does not know."""
    return importlib.metadata.version(package).partition("+")[0]


def _card(export: Path, title: str) -> str:
    """The Space's metadata, and the model's own card beneath."""
    values = {
        "title": title,
        "sdk": "gradio",
        "sdk_version": _version("gradio"),
        "app_file": "app.py",
        "suggested_hardware": "cpu-basic",
    }
    card = export / CARD_FILE
    text = card.read_text("utf-8").rpartition("---\n")[2] if card.is_file() else ""
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---\n\n{text.lstrip()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the Space; raises ``ValueError`` or ``OSError`` in one line."""
    call = build_parser().parse_args(arguments)
    write_space(call.export, call.output, title=call.title or call.export.resolve().name)
    sys.stdout.write(f"{call.output}: a Space; python {call.output / 'app.py'} shows it here\n")
    return 0

"""``python -m trainer space EXPORT --output DIR``: a Space around an exported model."""

import argparse
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from lm.volume.content import CONFIG_FILE, WEIGHTS_FILE
from trainer.exporting.card import CARD_FILE

APP = Path(__file__).with_name("space_app.py")
MODEL_TYPES = ("llama", "gpt2")
REQUIREMENTS = ("torch", "transformers", "safetensors", "gradio")

EXAMPLES = """\
examples:
  python -m trainer export tiny@best --format int8 --output ./tiny-int8
  python -m trainer space ./tiny-int8 --output ./tiny-space
  python ./tiny-space/app.py
      the page on port 7860, as the Space will show it
  hf upload me/tiny-space ./tiny-space --repo-type space
      publishes it

EXPORT is what export wrote as hf, fp16, bf16 or int8, of an architecture that transformers has.
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
    """Write app, requirements, card and a copy of the model.

    Raises ``ValueError`` if the directory is no export that transformers opens.
    """
    if output.exists():
        raise ValueError(f"--output {output} is there already; name another")
    config = _config(export)
    output.mkdir(parents=True)
    shutil.copytree(export, output / "model")
    shutil.copyfile(APP, output / "app.py")
    names = [*REQUIREMENTS, *(["torchao"] if "quantization_config" in config else [])]
    pins = [f"{name}=={_version(name)}\n" for name in names]
    (output / "requirements.txt").write_text("".join(pins), "utf-8")
    (output / CARD_FILE).write_text(_card(export, title), "utf-8")


def _config(export: Path) -> dict[str, object]:
    path = export / CONFIG_FILE
    if not path.is_file() or not (export / WEIGHTS_FILE).is_file():
        raise ValueError(
            f"{export} has no {CONFIG_FILE} and {WEIGHTS_FILE}: export as hf, fp16, bf16 or int8"
        )
    config: dict[str, object] = json.loads(path.read_text("utf-8"))
    if config.get("model_type") not in MODEL_TYPES:
        raise ValueError(
            f"{export}: transformers, which the Space's app uses, has no class for model_type "
            f"{config.get('model_type')!r}"
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

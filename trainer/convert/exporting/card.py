"""The model card: what the export holds, how it came about, how good it is and where it ends."""

import json
from pathlib import Path
from typing import Any

import yaml

from trainer.convert.exporting.directory import has_class
from trainer.convert.exporting.source import Source
from trainer.report.plot import plot
from trainer.report.run_journal import METRICS_FILE
from trainer.step.memorising import FLAG

CARD_FILE = "README.md"
CURVES_FILE = "curves.png"
_FIGURES = {
    "train_loss": "training loss, running average, nats a token",
    "val_loss": "held-out loss, nats a token",
    "val_bits_per_byte": "held-out bits per byte",
}


def write_card(source: Source, directory: Path, *, format_name: str, measured: str) -> None:
    """Write the card, and the run's curves beside it where there are any.

    ``measured`` is the table of before and after, with a line on how it came about; empty if
    nothing was measured.
    """
    has_curves = _draw_curves(source.run_dir, directory / CURVES_FILE)
    sections = [
        _header(source),
        f"# {source.step.name}\n\n{_summary(source, format_name)}",
        _usage(source, format_name),
        _training(source),
        f"## Curves\n\n![Curves of the run]({CURVES_FILE})" if has_curves else "",
        f"## Before and after\n\n{measured}" if measured else "",
        _limits(source),
    ]
    (directory / CARD_FILE).write_text("\n\n".join(filter(None, sections)) + "\n", "utf-8")


def _header(source: Source) -> str:
    """Metadata that the Hub reads; no licence is claimed for weights that it knows nothing of."""
    values: dict[str, Any] = {"pipeline_tag": "text-generation", "tags": ["nestling"]}
    if has_class(source.config):
        values["library_name"] = "transformers"
    return f"---\n{yaml.safe_dump(values, sort_keys=True)}---"


def _summary(source: Source, format_name: str) -> str:
    config, manifest = source.config, source.step.manifest
    return (
        f"A language model of {config.num_parameters:,} parameters: step {manifest.step:,} of run "
        f"`{manifest.run}`, written {manifest.created_at} and exported by nestling as "
        f"`{format_name}`. Its step's SHA-256 fingerprint is `{manifest.fingerprint}`."
    )


def _usage(source: Source, format_name: str) -> str:
    directory_formats = {"hf", "fp16", "bf16"} | ({"int8"} if source.config.is_llama else set())
    if format_name in directory_formats and has_class(source.config):
        return (
            "## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("PATH")\n'
            'model = AutoModelForCausalLM.from_pretrained("PATH", dtype="auto")\n```'
        )
    if format_name.startswith("gguf"):
        return "## Use\n\nWith llama.cpp: `llama-cli -m FILE.gguf -p PROMPT`."
    return "## Use\n\n`python -m trainer import PATH` reads it; its docs/importing.md says how."


def _training(source: Source) -> str:
    """Recipe, data and figures, from what the step keeps of them."""
    details = source.step.manifest.details
    lines = ["## Training", ""]
    for name, text in _FIGURES.items():
        if name in details.metrics:
            lines.append(f"- {text}: {details.metrics[name]:.4f}")
    if details.progress.tokens_seen:
        lines.append(f"- tokens seen: {details.progress.tokens_seen:,}")
    origin = details.versions.get("imported_from")
    if origin is not None:
        lines.append(f"- imported from `{origin}`: how it was trained is said there")
    if source.state is not None:
        recipe = dict(source.state.recipe)
        lines += [f"- data: {one['name']} (`{one['corpus']}`)" for one in recipe["sources"]]
        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        lines += ["", "The recipe:", "", "```yaml", text.rstrip(), "```"]
    versions = json.dumps(dict(details.versions), sort_keys=True)
    return "\n".join([*lines, "", f"Made with: `{versions}`"])


def _limits(source: Source) -> str:
    flags = source.step.manifest.details.flags
    lines = [
        "## Limits",
        "",
        f"- It reads and writes at most {source.config.max_position_embeddings:,} tokens together.",
        "- A model of this size writes text that looks right more often than it is right; nothing "
        "in it was tuned to be safe or true.",
        "- Its licence is that of the data and weights it was made from; whoever publishes it says "
        "which.",
    ]
    if FLAG in flags:
        lines.append("- It has begun to memorise its training text: held-out loss was rising.")
    others = [flag for flag in flags if flag != FLAG]
    if others:
        lines.append(f"- The trainer flagged it: {', '.join(others)}.")
    return "\n".join(lines)


def _draw_curves(run_dir: Path, output: Path) -> bool:
    """Whether there were curves and something to draw them with."""
    if not (run_dir / METRICS_FILE).is_file():
        return False
    try:
        plot(run_dir, output)
    except ValueError:
        return False
    return True

"""Where a recipe's tokenizer comes from: trained, imported, the Hub, or a path."""

from collections.abc import Callable, Iterable
from pathlib import Path

from lm.huggingface import hub
from lm.text.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, Tokenizer
from lm.trial import load_tried
from trainer.data.tokenizer_training import train_tokenizer
from trainer.recipe.sections import TokenizerConfig

TRAIN = "train"
WEIGHTS = "weights"
_HUB_FILES = (
    *(TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, "generation_config.json", "config.json", "*.jinja"),
    *("added_tokens.json", "special_tokens_map.json"),
)


def resolve_tokenizer(
    config: TokenizerConfig,
    train_texts: Iterable[str],
    *,
    weights_dir: Path | None = None,
    on_fallback: Callable[[str], None],
) -> Tokenizer:
    """The tokenizer that a recipe names.

    Args:
        config: the recipe's section.
        train_texts: training documents; read only if a tokenizer is trained.
        weights_dir: directory of the imported step, for ``weights``.
        on_fallback: told, in one line, that a Hub tokenizer was replaced by a trained one, for
            the log and the manifest.

    Raises ``ValueError`` if it cannot be had.
    """
    if config.source == TRAIN:
        return train_tokenizer(train_texts, config.vocab_size)
    if config.source == WEIGHTS:
        if weights_dir is None:
            raise ValueError("tokenizer.source: 'weights' needs imported weights to start from")
        return load_tried(weights_dir)
    try:
        return named_tokenizer(config.source)
    except ValueError as error:
        if not config.offline_fallback:
            raise
        on_fallback(f"a tokenizer trained here stands in for {config.source}: {error}")
        return train_tokenizer(train_texts, config.vocab_size)


def named_tokenizer(source: str) -> Tokenizer:
    """The tokenizer of ``hub:OWNER/NAME`` or at a path; raises ``ValueError`` if there is none."""
    if source.startswith(hub.PREFIX):
        return load_tried(hub.download(source, _HUB_FILES))
    return load_tried(Path(source).expanduser())

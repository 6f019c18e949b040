"""What both sides of a comparison train: the same weights, batches, rates and precision.

A recipe is reduced to what two trainers can share: AdamW at a constant rate without weight decay,
clipping at 1, bfloat16 autocast over float32 weights, no dropout, one micro-batch a step, and
neither evaluation nor samples nor checkpoints. Text and tokenizer are made here, so nothing is
fetched; the vocabulary of the model stays that of the recipe.
"""

from io import StringIO
from pathlib import Path

from rich.console import Console

from lm.model.decoder import Decoder
from lm.model.initialize import initialize
from lm.volume import Progress, RunLock, Step, StepDetails, model_files, newest_step, publish
from trainer.data.corpora import open_corpus
from trainer.data.datasets import Data, open_data
from trainer.data.tokenizer_training import train_tokenizer
from trainer.recipe.recipes import load_recipe, override
from trainer.recipe.schema import Recipe

RUN, CACHE = "run", "tokens"
NEVER = 10**9
VOCABULARY = 1024


def comparable(name: str, *overrides: str, batch: tuple[int, int]) -> Recipe:
    """The recipe as both sides train it; batch is (rows, tokens)."""
    values = load_recipe(name).to_dict()
    values |= {
        "sources": [{"name": "text", "corpus": "math", "max_bytes": 4_000_000}],
        "stages": [],
        "tokenizer": {"source": "weights"},
        "optimizer": {"name": "adamw", "lr": 3e-4, "betas": (0.9, 0.95), "grad_clip": 1.0},
        "phases": [{"name": "all", "steps": NEVER, "schedule": {"name": "constant"}}],
        "batch": {"micro_batch": batch[0], "length": batch[1]},
        "unit": "optimizer",
        "precision": "bfloat16",
        "activation_checkpointing": False,
        "cadence": {
            "checkpoint_every": NEVER,
            "eval_every": NEVER,
            "sample_every": NEVER,
            "log_every": 1,
        },
    }
    return override(Recipe.from_dict(values), ("model.dropout=0.0", *overrides))


def begin(recipe: Recipe, volume: Path) -> Step:
    """Publish the weights and the tokenizer that both sides begin with, as step 0."""
    split = open_corpus(recipe.sources[0])
    tokenizer = train_tokenizer(split.train, min(VOCABULARY, recipe.model.vocab_size))
    decoder = Decoder(recipe.model)
    initialize(decoder, recipe.seed)
    weights = {name: weight.detach() for name, weight in decoder.named_parameters()}
    details = StepDetails(
        model_config=recipe.model,
        tokenizer_fingerprint=tokenizer.fingerprint,
        progress=Progress(micro_step=0, optimizer_step=0, tokens_seen=0),
    )
    with RunLock(volume / RUN):
        return publish(volume / RUN, 0, model_files(weights, recipe.model, tokenizer), details)


def open_batches(recipe: Recipe, volume: Path) -> Data:
    """The batches that the trainer takes: number i is the same for both sides."""
    step = newest_step(volume / RUN)
    return open_data(
        recipe, step, volume / CACHE, console=Console(file=StringIO()), note=lambda _: None
    )

"""A model, a tokenizer and a step small enough that a test makes them in milliseconds."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor

from lm.model.config import ModelConfig
from lm.model.decoder import Decoder
from lm.model.initialize import initialize
from lm.text.tokenizer import Tokenizer
from lm.volume import Progress, RunLock, Step, StepDetails, model_files, publish
from lm.volume.publish import TextFile, Writer

# Threads that wait for each other cost a toy more than they save, fivefold on a busy machine.
torch.set_num_threads(1)

END_OF_TEXT = "<|endoftext|>"
VOCAB_SIZE = 300

_TEXT = (
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the "
    "slings and arrows of outrageous fortune, or to take arms against a sea of troubles, and by "
    "opposing end them. To die, to sleep, no more; and by a sleep to say we end the heart-ache "
    "and the thousand natural shocks that flesh is heir to: 'tis a consummation devoutly to be "
    "wished.\n"
)


def toy_config(**changes: Any) -> ModelConfig:
    """Two layers of 64, four query heads over two key/value heads, 256 positions."""
    config = ModelConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    return dataclasses.replace(config, **changes)


def toy_decoder(seed: int = 0, config: ModelConfig | None = None) -> Decoder:
    """Fresh weights from a seed, in evaluation mode."""
    decoder = Decoder(config or toy_config())
    initialize(decoder, seed)
    return decoder.eval()


@functools.cache
def toy_tokenizer() -> Tokenizer:
    """Byte-level BPE of 300 ids; id 0 is ``<|endoftext|>``, which begins and ends a text."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([_TEXT], trainer)
    assert backend.get_vocab_size() == VOCAB_SIZE
    assert backend.token_to_id(END_OF_TEXT) == 0
    return Tokenizer(backend, bos_token_id=0, eos_token_ids=[0])


def toy_weights(seed: int = 0, config: ModelConfig | None = None) -> dict[str, Tensor]:
    """State dict of ``toy_decoder``."""
    return dict(toy_decoder(seed, config).state_dict())


def toy_details(step: int, **changes: Any) -> StepDetails:
    """What the writer of a toy step says about it."""
    details = StepDetails(
        model_config=toy_config(),
        tokenizer_fingerprint=toy_tokenizer().fingerprint,
        progress=Progress(micro_step=step, optimizer_step=step, tokens_seen=1024 * step),
        metrics={"train_loss": 2.0, "val_loss": 2.5, "val_bits_per_byte": 1.5},
    )
    return dataclasses.replace(details, **changes)


def publish_toy(
    volume: Path,
    run: str,
    step: int,
    *,
    seed: int = 0,
    config: ModelConfig | None = None,
    weights: Mapping[str, Tensor] | None = None,
    tokenizer: Tokenizer | None = None,
    extra_files: Mapping[str, Writer] | None = None,
    **details: Any,
) -> Step:
    """Publish one step as a trainer would, the run's lock held.

    ``weights`` replaces those of the seed, ``tokenizer`` the toy's, ``extra_files`` adds
    to the model's files, other keyword arguments replace fields of ``StepDetails``.
    """
    config = config or toy_config()
    tokenizer = tokenizer or toy_tokenizer()
    files = model_files(weights or toy_weights(seed, config), config, tokenizer)
    details = {"tokenizer_fingerprint": tokenizer.fingerprint, **details}
    with RunLock(volume / run):
        return publish(
            volume / run,
            step,
            files | dict(extra_files or {}),
            toy_details(step, model_config=config, **details),
        )


def toy_training_state(content: str = '{"loop": 1}') -> dict[str, Writer]:
    """Extra files that make a step look resumable; pass ``resumable=True`` along."""
    return {"training_state.json": TextFile(content)}

"""The model of the GPU's measurements: SmolLM2-135M's shape, its weights random or real."""

from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import decoders, models, pre_tokenizers

from lm.model.config import ModelConfig
from lm.model.decoder import Decoder
from lm.model.initialize import initialize
from lm.safetensors_file import Piece, read_weights
from lm.text.tokenizer import Tokenizer
from service.engine.gpu.buffers.filling import tensors_of


def smollm2(layers: int = 30) -> ModelConfig:
    """The shape; learned on a context of 8,192."""
    return ModelConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rope_theta=100_000.0,
    )


def weights_of(directory: Path | None, config: ModelConfig) -> Iterator[Piece]:
    """Weights in bfloat16."""
    if directory is None:
        decoder = Decoder(config)
        initialize(decoder, seed=0)
        yield from tensors_of(decoder.to(torch.bfloat16).state_dict().items())
        return
    path = directory / "model.safetensors"
    with path.open("rb") as file:
        yield from read_weights(file, path.stat().st_size, dtype=torch.bfloat16)


def silent_tokenizer() -> Tokenizer:
    """A tokenizer without end tokens: generation runs to its limit."""
    backend = BackendTokenizer(models.BPE())
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, bos_token_id=None, eos_token_ids=[])


def wide_tokenizer(vocab_size: int) -> Tokenizer:
    """A token a byte, and for all other ids a word of its own behind a blank."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {letter: number for number, letter in enumerate(alphabet)}
    words |= {f"\u0120w{number:x}": number for number in range(len(words), vocab_size)}
    backend = BackendTokenizer(models.BPE(words, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, bos_token_id=None, eos_token_ids=[])

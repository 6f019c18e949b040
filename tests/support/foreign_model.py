"""A foreign model directory of random weights, as fixtures for tests that read one."""

from pathlib import Path

import pytest

from lm.model.config import ModelConfig
from lm.model.decoder import Decoder
from lm.model.initialize import initialize
from lm.text.tokenizer import Tokenizer
from lm.volume import model_files
from trainer.data.tokenizer_training import train_tokenizer

CONFIG = ModelConfig(
    vocab_size=280,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    rope_theta=100_000.0,
)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["to be or not to be\n"] * 9, 270)


@pytest.fixture
def decoder() -> Decoder:
    decoder = Decoder(CONFIG).eval()
    initialize(decoder, seed=0)
    return decoder


@pytest.fixture
def model_dir(tmp_path: Path, decoder: Decoder, tokenizer: Tokenizer) -> Path:
    """A Hugging Face model directory of random weights."""
    directory = tmp_path / "Mine-1.5"
    directory.mkdir()
    weights = dict(decoder.named_parameters())
    for name, write in model_files(weights, CONFIG, tokenizer).items():
        write(directory / name)
    return directory

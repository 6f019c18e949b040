"""Released models of our parts: their shapes are read exactly, and imported, served and exported.

The configs are the published ones; weights are random and everything is scaled down, for what can
go wrong is in the parts and not in the size.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from toys import toy_tokenizer

from lm.decoder import decoder_from_weights
from lm.foreign import Foreign, read_directory
from lm.hf_config import from_hf
from lm.volume import Step, newest_step
from service.backend import BackendOptions
from service.foreign import publish_model
from service.loader import Loader, LoaderOptions
from trainer.exporting import export

transformers = pytest.importorskip("transformers")

_SMOLLM: dict[str, Any] = {"vocab_size": 49152, "tie_word_embeddings": True}
_SIZES: dict[str, dict[str, int]] = {
    "135M": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "360M": {
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
    },
    "1.7B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
}
_TINY_LLAMA = {
    "vocab_size": 32000,
    "tie_word_embeddings": False,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}


def _published(shape: dict[str, Any], context: int, theta: float) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": context,
        "rope_theta": theta,
        **shape,
    }


MODELS = {
    "SmolLM2-135M": (_published(_SMOLLM | _SIZES["135M"], 8192, 100_000.0), 134_515_008),
    "SmolLM2-360M": (_published(_SMOLLM | _SIZES["360M"], 8192, 100_000.0), 361_821_120),
    "SmolLM2-1.7B": (_published(_SMOLLM | _SIZES["1.7B"], 8192, 130_000.0), 1_711_376_384),
    "SmolLM-135M": (_published(_SMOLLM | _SIZES["135M"], 2048, 10_000.0), 134_515_008),
    "SmolLM-360M": (_published(_SMOLLM | _SIZES["360M"], 2048, 10_000.0), 361_821_120),
    "SmolLM-1.7B": (_published(_SMOLLM | _SIZES["1.7B"], 2048, 10_000.0), 1_711_376_384),
    "TinyLlama-1.1B": (_published(_TINY_LLAMA, 2048, 10_000.0), 1_100_048_384),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_released_shape_has_its_published_size(name: str) -> None:
    config, parameters = MODELS[name]
    assert from_hf(config).num_parameters == parameters


def released(name: str, directory: Path) -> tuple[Any, Path]:
    """The model as transformers saves it, every size but the number of heads scaled down."""
    published = dict(MODELS[name][0])
    heads = published["num_attention_heads"]
    small = published | {
        "vocab_size": 300,
        "hidden_size": 4 * heads,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "max_position_embeddings": 128,
    }
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**small, bos_token_id=0, eos_token_id=0)
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(directory / name)
    toy_tokenizer().save(directory / name)
    return model, directory / name


def assert_equal_logits(theirs: Any, foreign: Foreign) -> None:
    ours = decoder_from_weights(foreign.config, foreign.weights).eval()
    token_ids = torch.arange(40)[None]
    with torch.inference_mode():
        torch.testing.assert_close(ours(token_ids), theirs(token_ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["SmolLM2-135M", "SmolLM2-1.7B", "SmolLM-360M", "TinyLlama-1.1B"])
def test_it_imports_serves_and_exports(name: str, tmp_path: Path) -> None:
    theirs, directory = released(name, tmp_path)
    assert_equal_logits(theirs, read_directory(directory))

    step: Step = publish_model(str(directory), tmp_path / "volume")
    served = Loader(
        LoaderOptions(
            backend=BackendOptions(
                device=torch.device("cpu"), dtype="float32", num_slots=1, max_step_tokens=32
            ),
            max_model_tokens=None,
            verify_hashes=True,
        )
    ).load(step)
    assert served.checkpoint.name == f"{name}@0"
    assert served.max_model_tokens == 128

    assert newest_step(tmp_path / "volume" / name) == step
    export(step, "hf", tmp_path / "out", max_tokens=0)
    assert_equal_logits(theirs, read_directory(tmp_path / "out"))

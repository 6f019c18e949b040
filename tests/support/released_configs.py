"""The ``config.json`` of released models of our parts, with the fields that they came with.

Base and instruct models of a size differ in the tokens that begin and end a text, and older
releases lack fields: ``open_llama_3b`` has no ``num_key_value_heads``.
"""

from typing import Any

BASE = {"bos_token_id": 0, "eos_token_id": 0}
INSTRUCT = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
SMOLLM = {"vocab_size": 49152, "tie_word_embeddings": True, "mlp_bias": False}
NEWER = {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {}}

_FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def _sizes(*sizes: int) -> dict[str, int]:
    return dict(zip(_FIELDS, sizes, strict=True))


SMALL = _sizes(576, 1536, 30, 9) | {"num_key_value_heads": 3, "initializer_range": 1 / 24}
MEDIUM = _sizes(960, 2560, 32, 15) | {"num_key_value_heads": 5}
LARGE = _sizes(2048, 8192, 24, 32) | {"num_key_value_heads": 32}
TINY_LLAMA = _sizes(2048, 5632, 22, 32) | {"num_key_value_heads": 4, "vocab_size": 32000}
OPEN_LLAMA = _sizes(3200, 8640, 26, 32) | {"vocab_size": 32000, "rms_norm_eps": 1e-6}


def _published(context: int, theta: float, *parts: dict[str, Any]) -> dict[str, Any]:
    """As transformers 4 wrote it, the parts over what they have in common."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": context,
        "model_type": "llama",
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": theta,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    for part in parts:
        config |= part
    return config


MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "SmolLM2-135M": (_published(8192, 100_000.0, SMOLLM, SMALL, BASE, NEWER), 134_515_008),
    "SmolLM2-135M-Instruct": (
        _published(8192, 100_000.0, SMOLLM, SMALL, INSTRUCT, NEWER),
        134_515_008,
    ),
    "SmolLM2-360M": (_published(8192, 100_000.0, SMOLLM, MEDIUM, BASE, NEWER), 361_821_120),
    "SmolLM2-360M-Instruct": (
        _published(8192, 100_000.0, SMOLLM, MEDIUM, INSTRUCT, NEWER),
        361_821_120,
    ),
    "SmolLM2-1.7B": (_published(8192, 130_000.0, SMOLLM, LARGE, BASE), 1_711_376_384),
    "SmolLM2-1.7B-Instruct": (
        _published(8192, 130_000.0, SMOLLM, LARGE, INSTRUCT),
        1_711_376_384,
    ),
    "SmolLM-135M": (_published(2048, 10_000.0, SMOLLM, SMALL, BASE), 134_515_008),
    "SmolLM-360M": (_published(2048, 10_000.0, SMOLLM, MEDIUM, BASE), 361_821_120),
    "SmolLM-1.7B": (_published(2048, 10_000.0, SMOLLM, LARGE, BASE), 1_711_376_384),
    "TinyLlama-1.1B": (
        _published(2048, 10_000.0, TINY_LLAMA, {"bos_token_id": 1, "eos_token_id": 2}),
        1_100_048_384,
    ),
    "open_llama_3b": (
        _published(2048, 10_000.0, OPEN_LLAMA, {"bos_token_id": 1, "eos_token_id": 2}),
        3_426_473_600,
    ),
}
"""``config.json`` and the number of parameters."""


def scaled_down(config: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """Every field as it is, and every size but the numbers of heads small."""
    return config | {
        "vocab_size": vocab_size,
        "hidden_size": 8 * config["num_attention_heads"],
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "max_position_embeddings": 128,
    }

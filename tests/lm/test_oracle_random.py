"""Contract: the decoder computes what transformers computes, for every switch it has.

Random weights of a tiny size, in float32. What transformers has no switch for (the residual scale,
LayerNorm without biases) is expressed through weights of a model that it does have.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lm.huggingface.config import to_hf
from lm.model.config import ModelConfig
from lm.model.decoder import Decoder
from lm.text.tokenizer import Tokenizer
from lm.volume import Progress, Step, StepDetails, load_weights, model_files, publish
from trainer.data.tokenizer_training import train_tokenizer

transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5
LENGTH = 64
LLAMA = ModelConfig(
    vocab_size=300,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=LENGTH,
)
GPT2 = ModelConfig(
    vocab_size=300,
    hidden_size=48,
    intermediate_size=192,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=6,
    max_position_embeddings=LENGTH,
    positions="learned",
    norm="layernorm",
    mlp="gelu",
    bias=True,
)
TEXTS = ["To be, or not to be.\n" * 9, "What is 12 + 34?\n" * 9]


def changed(config: ModelConfig, **changes: Any) -> ModelConfig:
    return ModelConfig.from_dict(config.to_dict() | changes)


def random_decoder(config: ModelConfig, seed: int = 0) -> Decoder:
    """Weights large enough that a wrong sign or order anywhere moves the logits."""
    decoder = Decoder(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, 0.15, generator=generator)
    return decoder


def random_ids(config: ModelConfig) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(config.vocab_size, (2, LENGTH), generator=generator)


@torch.no_grad()
def assert_same_logits(decoder: Decoder, reference: Any) -> None:
    token_ids = random_ids(decoder.config)
    expected = reference.eval()(token_ids).logits
    assert expected.std() > 0.1
    assert (decoder(token_ids) - expected).abs().max() < TOLERANCE


def llama(config: ModelConfig, weights: Mapping[str, Tensor], **switches: Any) -> Any:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**to_hf(config) | switches))
    model.load_state_dict(weights)
    return model


def gpt2(config: ModelConfig) -> Any:
    """A GPT-2 of transformers whose every weight and bias is random."""
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.max_position_embeddings,
            n_embd=config.hidden_size,
            n_layer=config.num_hidden_layers,
            n_head=config.num_attention_heads,
            n_inner=config.intermediate_size,
            tie_word_embeddings=config.tie_word_embeddings,
        )
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            is_gain = ".ln_" in name and name.endswith("weight")
            weight.normal_(1.0 if is_gain else 0.0, 0.15, generator=generator)
            if not config.bias and name.endswith("bias"):
                weight.zero_()
    return model


def from_gpt2(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """GPT-2's names and layout in ours: Conv1D is transposed, one matrix holds q, k and v."""
    ours = {
        "model.embed_tokens.weight": weights["transformer.wte.weight"],
        "model.embed_positions.weight": weights["transformer.wpe.weight"],
        "model.norm.weight": weights["transformer.ln_f.weight"],
        "model.norm.bias": weights["transformer.ln_f.bias"],
        "lm_head.weight": weights["lm_head.weight"],
    }
    names = {
        "ln_1": "input_layernorm",
        "ln_2": "post_attention_layernorm",
        "attn.c_proj": "self_attn.o_proj",
        "mlp.c_fc": "mlp.up_proj",
        "mlp.c_proj": "mlp.down_proj",
    }
    for layer in range(config.num_hidden_layers):
        theirs, block = f"transformer.h.{layer}.", f"model.layers.{layer}."
        for kind in ("weight", "bias"):
            for name, our_name in names.items():
                ours[f"{block}{our_name}.{kind}"] = weights[f"{theirs}{name}.{kind}"].t()
            parts = weights[f"{theirs}attn.c_attn.{kind}"].t().chunk(3)
            for part, tensor in zip("qkv", parts, strict=True):
                ours[f"{block}self_attn.{part}_proj.{kind}"] = tensor
    kept = Decoder(config).state_dict().keys()
    return {name: tensor.contiguous() for name, tensor in ours.items() if name in kept}


def scaled(
    weights: Mapping[str, Tensor], scale: float, names: tuple[str, ...]
) -> dict[str, Tensor]:
    """Weights whose last projections of each block carry the residual scale."""
    return {
        name: tensor * scale if any(part in name for part in names) else tensor
        for name, tensor in weights.items()
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 6},
        {"tie_word_embeddings": False},
        {"rope_theta": 100_000.0},
        {"norm_eps": 1e-2},
        {"hidden_size": 72, "num_attention_heads": 2},
        {"dropout": 0.5},
    ],
    ids=str,
)
def test_every_llama_gives_the_logits_of_transformers(changes: dict[str, Any]) -> None:
    decoder = random_decoder(changed(LLAMA, **changes))
    assert decoder.config.is_llama
    assert_same_logits(decoder, llama(decoder.config, decoder.state_dict()))


def test_biases_in_every_projection_are_llama_s() -> None:
    decoder = random_decoder(changed(LLAMA, bias=True))
    assert any(name.endswith("gate_proj.bias") for name in decoder.state_dict())
    switches = {"attention_bias": True, "mlp_bias": True}
    reference = llama(LLAMA, decoder.state_dict(), **switches)
    assert_same_logits(decoder, reference)


def test_the_residual_scale_is_a_factor_on_each_block_s_output() -> None:
    decoder = random_decoder(changed(LLAMA, residual_scale=0.6))
    weights = scaled(decoder.state_dict(), 0.6, ("o_proj", "down_proj"))
    assert_same_logits(decoder, llama(LLAMA, weights))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_learned_positions_layernorm_and_gelu_are_gpt2_s(*, bias: bool, tied: bool) -> None:
    config = changed(GPT2, bias=bias, tie_word_embeddings=tied)
    reference = gpt2(config)
    decoder = Decoder(config).eval()
    decoder.load_state_dict(from_gpt2(reference.state_dict(), config))
    assert_same_logits(decoder, reference)


def test_a_gpt2_with_a_residual_scale_and_no_biases_is_gpt2_with_scaled_projections() -> None:
    config = changed(GPT2, bias=False, residual_scale=2**-0.5)
    reference = gpt2(config)
    decoder = Decoder(config).eval()
    decoder.load_state_dict(from_gpt2(reference.state_dict(), config))
    weights = scaled(reference.state_dict(), 2**-0.5, ("c_proj.weight",))
    reference.load_state_dict(weights)
    assert_same_logits(decoder, reference)


def test_the_oracle_would_notice_another_rope_theta() -> None:
    decoder = random_decoder(changed(LLAMA, rope_theta=100_000.0))
    with pytest.raises(AssertionError):
        assert_same_logits(decoder, llama(LLAMA, decoder.state_dict()))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 290)


def written(run_dir: Path, decoder: Decoder, tokenizer: Tokenizer) -> Step:
    """The step that a trainer would publish of these weights."""
    run_dir.mkdir()
    weights = dict(decoder.named_parameters())
    details = StepDetails(
        model_config=decoder.config,
        tokenizer_fingerprint=tokenizer.fingerprint,
        progress=Progress(micro_step=0, optimizer_step=0, tokens_seen=0),
    )
    return publish(run_dir, 7, model_files(weights, decoder.config, tokenizer), details)


@pytest.mark.parametrize("tied", [True, False])
def test_a_step_opens_with_transformers_and_gives_the_same_logits(
    tmp_path: Path, tokenizer: Tokenizer, *, tied: bool
) -> None:
    config = changed(LLAMA, tie_word_embeddings=tied, rope_theta=100_000.0)
    decoder = random_decoder(config)
    step = written(tmp_path / "run", decoder, tokenizer)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        step.path, output_loading_info=True
    )
    assert not any(loading.values()), loading
    assert model.dtype == torch.float32
    assert model.num_parameters() == config.num_parameters
    assert model.generation_config.eos_token_id in (0, [0])
    assert_same_logits(decoder, model)


def test_a_step_s_tokenizer_opens_with_transformers(tmp_path: Path, tokenizer: Tokenizer) -> None:
    step = written(tmp_path / "run", random_decoder(LLAMA), tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(step.path)
    for text in [*TEXTS, "  two  spaces\n\n1234 déjà vu 🙂\t", "don't , stop .", ""]:
        token_ids = tokenizer.encode(text)
        assert theirs(text).input_ids == token_ids
        assert theirs.decode(token_ids) == tokenizer.decode(token_ids) == text
    assert (theirs.bos_token_id, theirs.eos_token_id) == (0, 0)


def test_a_shape_that_transformers_lacks_is_refused_by_it_and_kept_by_us(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    decoder = random_decoder(GPT2)
    step = written(tmp_path / "run", decoder, tokenizer)
    with pytest.raises(ValueError, match="nestling"):
        transformers.AutoModelForCausalLM.from_pretrained(step.path)
    weights = load_weights(step)
    assert all(torch.equal(weights[name], w) for name, w in decoder.named_parameters())

"""Files as other training loops write them; oracle: the logits of the module that wrote them."""

import dataclasses
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lm.model.config import ModelConfig
from lm.model.decoder import decoder_from_weights
from lm.text.tokenizer import Tokenizer
from trainer.convert.importing import Described, Foreign
from trainer.convert.importing.checkpoint import LEFT_BEHIND, read_checkpoint
from trainer.recipe.recipes import load_recipe

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 280,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def small(recipe: str, **changes: Any) -> ModelConfig:
    """A recipe's architecture, tiny."""
    sizes = SIZES | {"intermediate_size": 48, "num_key_value_heads": 2}
    return dataclasses.replace(load_recipe(recipe).model, **(sizes | changes))


LLAMA = small("smollm2-135m")
UNTIED = small("smollm2-135m-untied")
SCALED = small("smollm2-135m-learned", num_key_value_heads=4)
GPT2 = small("gpt-80m", num_key_value_heads=4, intermediate_size=128)
LAYERS = dataclasses.replace(GPT2, mlp="gelu_erf")
STAGED = small("smollm2-135m-curriculum")
TOKEN_IDS = torch.arange(2 * 40).view(2, 40) * 7 % 280


def llama(config: ModelConfig = LLAMA) -> Any:
    torch.manual_seed(1)
    theirs = transformers.LlamaConfig(
        **SIZES,
        intermediate_size=config.intermediate_size,
        num_key_value_heads=config.num_key_value_heads,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tie_word_embeddings,
        initializer_range=0.2,
    )
    return transformers.LlamaForCausalLM(theirs).eval()


def gpt2() -> Any:
    torch.manual_seed(2)
    theirs = transformers.GPT2Config(
        vocab_size=280, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2
    )
    return transformers.GPT2LMHeadModel(theirs).eval()


class ScaledAttention(nn.Module):
    """One fused ``nn.Linear`` and a causal mask among its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn = nn.Linear(32, 96, bias=False)
        self.c_proj = nn.Linear(32, 32, bias=False)
        self.register_buffer("bias", torch.ones(64, 64).tril().view(1, 1, 64, 64))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (4, 8)).transpose(1, 2) for part in self.c_attn(x).split(32, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).flatten(-2))


class ScaledBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.RMSNorm(32, eps=1e-5), nn.RMSNorm(32, eps=1e-5)
        self.attn = ScaledAttention()
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(32, 48, bias=False), "c_proj": nn.Linear(48, 32, bias=False)}
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x)) / 2**0.5
        inner = F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")
        return x + self.mlp["c_proj"](inner) / 2**0.5


class Scaled(nn.Module):
    """Learned positions, RMSNorm, residuals times 1/sqrt(2), a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(280, 32),
                "wpe": nn.Embedding(64, 32),
                "h": nn.ModuleList([ScaledBlock(), ScaledBlock()]),
                "ln_f": nn.RMSNorm(32, eps=1e-5),
            }
        )
        self.lm_head = nn.Linear(32, 280, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, token_ids: Tensor) -> Tensor:
        positions = torch.arange(token_ids.shape[1])
        x = self.transformer["wte"](token_ids) + self.transformer["wpe"](positions)
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


class Layers(nn.Module):
    """PyTorch's own encoder layers under a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(280, 32)
        self.position_embedding = nn.Embedding(64, 32)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                32, 4, 128, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.final_norm = nn.LayerNorm(32)
        self.lm_head = nn.Linear(32, 280, bias=False)
        self.lm_head.weight = self.token_embedding.weight

    def forward(self, token_ids: Tensor) -> Tensor:
        length = token_ids.shape[1]
        x = self.token_embedding(token_ids) + self.position_embedding(torch.arange(length))
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        return self.lm_head(self.final_norm(x))


def as_meta(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A Llama's weights by Meta's names, rows as rotary over neighbours wants them."""
    names = {
        "model.embed_tokens": "tok_embeddings",
        "model.norm": "norm",
        "lm_head": "output",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attention.wq",
        "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
    }
    theirs = {}
    for name, weight in state.items():
        if ".q_proj." in name or ".k_proj." in name:
            halves = weight.unflatten(0, (-1, 2, 4))
            weight = halves.transpose(1, 2).flatten(0, 2)  # noqa: PLW2901
        name = name.removeprefix("model.") if "layers" in name else name  # noqa: PLW2901
        for ours, meta in names.items():
            name = name.replace(ours, meta)  # noqa: PLW2901
        theirs[name] = weight
    return theirs


def loop_dict(state: Any, **extra: Any) -> dict[str, Any]:
    """What the training loops of four of the five recipes' sources save."""
    return {
        "model_state_dict": state,
        "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []},
        "scheduler_state_dict": {"last_epoch": 5000},
        "loss": 0.0168,
    } | extra


def lightning_dict(state: dict[str, Tensor]) -> dict[str, Any]:
    """The keys of a Lightning checkpoint."""
    return {
        "epoch": 0,
        "global_step": 5000,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": OrderedDict((f"model.{name}", tensor) for name, tensor in state.items()),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [{"state": {}}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"model_type": "SmolLM2-135M"},
    }


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def without_model(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


@dataclasses.dataclass
class Shape:
    """A kind of file: what wrote it, what it holds, what must come of it."""

    config: ModelConfig
    module: Callable[[], Any]
    content: Callable[[Any], Any]
    file: str
    step: int


def half_state(module: Any) -> dict[str, Tensor]:
    """A compiled model's weights in float16, tied ones apart, rotary buffers among them."""
    for parameter in module.parameters():
        parameter.data = parameter.data.half().float()
    weights = prefixed(module.state_dict(), "_orig_mod.")
    state = {name: weight.half() for name, weight in weights.items()}
    exponents = torch.arange(0, 8, 2) / 8
    for layer in range(2):
        name = f"_orig_mod.model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        state[name] = (10_000.0**-exponents).half()
    return state


SHAPES = {
    "smollm2-135m": Shape(
        LLAMA,
        llama,
        lambda module: loop_dict(module.state_dict(), step=5000),
        "smollm2_checkpoint_step_5000.pth",
        5000,
    ),
    "step only in the name": Shape(
        LLAMA, llama, lambda m: loop_dict(m.state_dict()), "smollm2_checkpoint_step_5000.pth", 5000
    ),
    "smollm2-135m-learned, Lightning": Shape(
        SCALED, Scaled, lambda m: lightning_dict(m.state_dict()), "smollm2_135m_final.ckpt", 5000
    ),
    "smollm2-135m-learned, state_dict alone": Shape(
        SCALED,
        Scaled,
        lambda m: {"state_dict": prefixed(m.state_dict(), "model._orig_mod.")},
        "smollm2_135m.ckpt",
        0,
    ),
    "smollm2-135m-untied": Shape(
        UNTIED,
        lambda: llama(UNTIED),
        lambda m: loop_dict(without_model(m.state_dict()), global_step=torch.tensor(5050)),
        "checkpoint_step_5050.pt",
        5050,
    ),
    "gpt-80m, Conv1D": Shape(
        GPT2, gpt2, lambda m: loop_dict(m.state_dict(), step=4900), "checkpoint.pt", 4900
    ),
    "gpt-80m, nn.MultiheadAttention": Shape(
        LAYERS,
        Layers,
        lambda m: loop_dict(prefixed(m.state_dict(), "module."), step=4900),
        "checkpoint.pt",
        4900,
    ),
    "smollm2-135m-curriculum": Shape(STAGED, llama, half_state, "final_smollm2_135m_half.pt", 0),
    "Meta's names": Shape(
        LLAMA, llama, lambda m: {"model": as_meta(m.state_dict()), "iter_num": 12}, "m.pth", 12
    ),
}


def read(
    path: Path, content: Any, config: ModelConfig, tokenizer: Tokenizer, **described: Any
) -> Foreign:
    torch.save(content, path)
    return read_checkpoint(path, Described(config=config, tokenizer=tokenizer, **described))


@torch.no_grad()
def logits_of(foreign: Foreign) -> Tensor:
    return decoder_from_weights(foreign.config, foreign.to(torch.float32).weights).eval()(TOKEN_IDS)


@torch.no_grad()
def logits_by(module: Any) -> Tensor:
    logits = module.eval()(TOKEN_IDS)
    return logits if isinstance(logits, Tensor) else logits.logits


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_the_module_that_wrote_the_file(
    tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    shape = SHAPES[name]
    torch.manual_seed(3)
    module = shape.module()
    content = shape.content(module)
    foreign = read(tmp_path / shape.file, content, shape.config, tokenizer)
    assert foreign.step == shape.step
    expected = logits_by(module)
    assert expected.std() > 0.1, "weights large enough that a wrong one would show"
    assert (logits_of(foreign) - expected).abs().max() < 1e-4


def test_what_else_was_in_the_file_is_named_and_left_behind(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    content = loop_dict(llama().state_dict(), step=3)
    foreign = read(tmp_path / "c.pt", content, LLAMA, tokenizer)
    assert foreign.origin[LEFT_BEHIND] == "optimizer_state_dict, scheduler_state_dict"
    assert foreign.metrics == {"train_loss": 0.0168}
    odd = read(tmp_path / "c.pt", {**content, "a\ud800": 1}, LLAMA, tokenizer)
    assert odd.origin[LEFT_BEHIND].endswith("a\\ud800"), "half of a character, which no file holds"
    alone = read(tmp_path / "c.pt", llama().state_dict(), LLAMA, tokenizer)
    assert (alone.origin[LEFT_BEHIND], alone.metrics) == ("", {})
    assert alone.origin["imported_sha256"] != foreign.origin["imported_sha256"]


def test_rotary_over_neighbours_can_be_said(tmp_path: Path, tokenizer: Tokenizer) -> None:
    module = llama()
    mixed = without_model(module.state_dict())
    meta = as_meta(module.state_dict())
    for layer in range(2):
        for letter in "qk":
            theirs = meta[f"layers.{layer}.attention.w{letter}.weight"]
            mixed[f"layers.{layer}.self_attn.{letter}_proj.weight"] = theirs
    said = read(tmp_path / "c.pt", mixed, LLAMA, tokenizer, rotary="interleaved")
    assert (logits_of(said) - logits_by(module)).abs().max() < 1e-4
    unsaid = read(tmp_path / "c.pt", mixed, LLAMA, tokenizer)
    assert (logits_of(unsaid) - logits_by(module)).abs().max() > 0.1
    assert said.origin["imported_description"] != unsaid.origin["imported_description"]


def test_int8_layers_become_what_they_stand_for(tmp_path: Path, tokenizer: Tokenizer) -> None:
    module = Scaled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch is about to drop what such files were made with
        quantized = torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)
        state = quantized.state_dict()
    foreign = read(
        tmp_path / "q.ckpt", {"state_dict": prefixed(state, "model.")}, SCALED, tokenizer
    )
    with torch.no_grad():
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear) and name != "lm_head":
                packed = state[f"{name}._packed_params._packed_params"][0]
                assert (layer.weight - packed.dequantize()).abs().max() > 0
                layer.weight.copy_(packed.dequantize())
    assert (logits_of(foreign) - logits_by(module)).abs().max() < 1e-4


def test_a_head_that_is_not_the_embedding_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    state = llama(UNTIED).state_dict()
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from the embedding"):
        read(tmp_path / "c.pt", state, LLAMA, tokenizer)
    del state["lm_head.weight"]
    with pytest.raises(ValueError, match=r"lm_head\.weight is missing"):
        read(tmp_path / "c.pt", state, UNTIED, tokenizer)


def test_weights_that_are_not_the_recipes_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    def refuse(state: dict[Any, Any], message: str, config: ModelConfig = LLAMA) -> None:
        with pytest.raises(ValueError, match=message) as error:
            read(tmp_path / "c.pt", state, config, tokenizer)
        assert "\n" not in str(error.value)

    state = llama().state_dict()
    norm = "model.layers.1.input_layernorm.weight"
    refuse({n: w for n, w in state.items() if n != norm}, f"{norm} is missing")
    refuse(state | {norm: torch.ones(33)}, rf"{norm} has shape \[33\], the config wants \[32\]")
    refuse(state | {"lm_head.bias": torch.ones(280)}, r"lm_head\.bias is not supported")
    refuse(state | {"lm_head.weight": 3}, "'lm_head.weight' is a int, not a weight")
    refuse({0: torch.ones(2)}, "names that are not known: '0'")
    refuse({}, "holds no weights")
    meta = as_meta(state)
    refuse(meta | {"layers.0.attention.wk.weight": torch.ones(3, 32)}, r"k_proj.* \[3, 32\]")
    refuse(meta | {"layers.0.attention.qkv.weight": torch.tensor(1.0)}, r"qkv_proj.* shape \[\]")
    wider = dataclasses.replace(GPT2, max_position_embeddings=128)
    refuse(gpt2().state_dict(), r"embed_positions.* has shape \[64, 32\], .* \[128, 32\]", wider)


def test_a_config_in_the_file_must_agree_where_shapes_are_silent(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    state = llama().state_dict()
    kept = {"num_key_value_heads": 2, "rope_theta": 10_000.0, "hidden_act": "silu"}
    assert read(tmp_path / "c.pt", loop_dict(state, config=kept), LLAMA, tokenizer).step == 0
    kept["rope_theta"] = 100_000.0
    with pytest.raises(ValueError, match=r"says rope_theta 100000\.0, the recipe's .* is 10000\.0"):
        read(tmp_path / "c.pt", loop_dict(state, config=kept), LLAMA, tokenizer)


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="holds a list, not a dict of weights"):
        read(tmp_path / "c.pt", [torch.ones(2)], LLAMA, tokenizer)


def test_metas_frequencies_are_compared_and_left_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    state = dict(llama().state_dict())
    state["rope.freqs"] = LLAMA.rope_theta ** -(torch.arange(0, 8, 2) / 8)
    assert "rope.freqs" not in read(tmp_path / "c.pt", state, LLAMA, tokenizer).weights
    state["rope.freqs"] = 500_000.0 ** -(torch.arange(0, 8, 2) / 8)
    with pytest.raises(ValueError, match=r"rope\.freqs is not that of .* it says about 5e\+05"):
        read(tmp_path / "c.pt", state, LLAMA, tokenizer)

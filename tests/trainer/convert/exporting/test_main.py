"""``python -m trainer export``: every format written, read back with its tool, and measured."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from toy_run import toy_recipe, train_toy
from toys import publish_toy, toy_config, toy_decoder

from lm.model.config import ModelConfig
from lm.model.decoder import decoder_from_weights
from lm.volume import load_weights, newest_step
from trainer.__main__ import main
from trainer.convert.exporting.__main__ import FORMAT_HELP, build_parser
from trainer.convert.exporting.formats import FORMATS
from trainer.convert.exporting.reader import in_llama_cpp
from trainer.convert.importing import Described, read_source
from trainer.convert.importing.quantized import dequantized

pytest.importorskip("transformers")
pytest.importorskip("gguf")

GPT2: dict[str, Any] = {
    "positions": "learned",
    "norm": "layernorm",
    "mlp": "gelu",
    "bias": True,
    "num_key_value_heads": 4,
}
LEARNED: dict[str, Any] = {
    "positions": "learned",
    "mlp": "gelu",
    "num_key_value_heads": 4,
    "residual_scale": 0.5,
}
SHAPES = {"llama": toy_config(), "gpt2": toy_config(**GPT2), "learned": toy_config(**LEARNED)}


class Desk:
    """A volume with one step of each shape, and calls of ``export``."""

    def __init__(self, directory: Path) -> None:
        self.volume = directory / "volume"
        self.output = directory / "out"
        self.text = directory / "text.txt"
        self.text.write_text("To be, or not to be: that is the question.\n" * 4)

    def export(self, what: str, form: str, *more: str) -> int:
        where = ["--volume", str(self.volume), "--output", str(self.output)]
        options = ["--format", form, "--text", str(self.text), "--measure-tokens", "40"]
        return main(["export", what, *where, *options, *more])


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def logits_of(config: ModelConfig) -> torch.Tensor:
    with torch.inference_mode():
        return toy_decoder(config=config)(torch.arange(20)[None])


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_transformers_opens_hf_and_computes_the_same(desk: Desk, shape: str) -> None:
    import transformers

    publish_toy(desk.volume, "toy", 7, config=SHAPES[shape])
    assert desk.export("toy@7", "hf") == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(desk.output).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(desk.output)
    assert type(model).__name__ == {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}[shape]
    with torch.inference_mode():
        torch.testing.assert_close(
            model(torch.arange(20)[None]).logits, logits_of(SHAPES[shape]), atol=1e-5, rtol=0
        )
    assert tokenizer.decode(tokenizer("the question").input_ids) == "the question"


def test_gpt_2_without_biases_or_a_tied_head_is_gpt_2_all_the_same(desk: Desk) -> None:
    import transformers

    config = toy_config(**GPT2 | {"bias": False, "mlp": "gelu_erf", "tie_word_embeddings": False})
    publish_toy(desk.volume, "toy", 7, config=config)
    assert desk.export("toy", "hf") == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(desk.output).eval()
    with torch.inference_mode():
        torch.testing.assert_close(
            model(torch.arange(20)[None]).logits, logits_of(config), atol=1e-5, rtol=0
        )


def test_hf_refuses_an_architecture_that_transformers_lacks_by_name(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_toy(desk.volume, "toy", 7, config=SHAPES["learned"])
    assert desk.export("toy", "hf") == 2
    error = capsys.readouterr().err
    assert "positions learned, norm rmsnorm, mlp gelu, residual_scale 0.5" in error
    assert not desk.output.exists()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["fp16", "bf16"])
def test_half_precision_has_half_the_size(desk: Desk, shape: str, form: str) -> None:
    publish_toy(desk.volume, "toy", 7, config=SHAPES[shape])
    assert desk.export("toy", form) == 0
    weights = safetensors.torch.load_file(desk.output / "model.safetensors")
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[form]
    assert {tensor.dtype for tensor in weights.values()} == {dtype}
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    assert size == 2 * SHAPES[shape].num_parameters


def test_a_weight_that_float16_cannot_hold_stops_the_export_by_name(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = dict(toy_decoder().state_dict())
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1e6
    publish_toy(desk.volume, "toy", 7, weights=weights)
    assert desk.export("toy", "fp16") == 2
    assert "model.norm.weight has values that are not finite" in capsys.readouterr().err
    assert sorted(desk.output.parent.iterdir()) == [desk.text, desk.volume]


def test_torch_gives_the_dict_of_a_training_script(desk: Desk) -> None:
    recipe = toy_recipe("optimizer.name=adamw", "optimizer.weight_decay=0.01")
    train_toy(desk.volume, recipe, last_step=6)
    assert desk.export("toy@6", "torch") == 0
    content = torch.load(desk.output / "checkpoint_step_6.pt", weights_only=True)
    assert {"model_state_dict", "optimizer_state_dict", "scheduler_state_dict"} < content.keys()
    assert content["step"] == 6
    assert content["loss"] > 0
    assert content["scheduler_state_dict"]["last_epoch"] == 6
    group = content["optimizer_state_dict"]["param_groups"][0]
    named = dict(zip(group["param_names"], group["params"], strict=True))
    step = newest_step(desk.volume / "toy")
    assert step is not None
    moments = safetensors.torch.load_file(step.path / "training_state.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    state = content["optimizer_state_dict"]["state"][named[name]]
    assert torch.equal(state["exp_avg"], moments[f"{name}/exp_avg"])


def test_torch_resumes_in_transformers_with_their_own_adamw(desk: Desk) -> None:
    """The order of optimizer states is that of a LlamaForCausalLM's parameters."""
    import transformers

    train_toy(desk.volume, toy_recipe("optimizer.name=adamw"), last_step=6)
    assert desk.export("toy", "torch") == 0
    content = torch.load(desk.output / "checkpoint_step_6.pt", weights_only=True)
    config = ModelConfig.from_dict(content["config"])
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **{k: v for k, v in config.to_dict().items() if k.startswith(("num", "hidden"))},
            vocab_size=config.vocab_size,
            intermediate_size=config.intermediate_size,
            tie_word_embeddings=True,
        )
    )
    theirs.load_state_dict(content["model_state_dict"])
    optimizer = torch.optim.AdamW(theirs.parameters())
    optimizer.load_state_dict(content["optimizer_state_dict"])
    for parameter in theirs.parameters():
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
    names = [name for name, _ in theirs.named_parameters()]
    assert content["optimizer_state_dict"]["param_groups"][0]["param_names"] == names


def test_torch_without_a_training_state_has_weights_alone(desk: Desk) -> None:
    publish_toy(desk.volume, "toy", 7, config=SHAPES["learned"])
    assert desk.export("toy", "torch") == 0
    content = torch.load(desk.output / "checkpoint_step_7.pt", weights_only=True)
    assert content.keys() == {"model_state_dict", "step", "loss", "config"}


def test_muon_s_moments_are_not_passed_off_as_adamw_s(desk: Desk) -> None:
    train_toy(desk.volume, last_step=6)
    assert desk.export("toy", "torch") == 0
    content = torch.load(desk.output / "checkpoint_step_6.pt", weights_only=True)
    assert "optimizer_state_dict" not in content
    assert content["scheduler_state_dict"]["last_epoch"] == 6


@pytest.mark.parametrize("shape", ["gpt2", "learned"])
def test_int8_of_other_shapes_is_quantize_dynamic_s_and_imports(desk: Desk, shape: str) -> None:
    step = publish_toy(desk.volume, "toy", 7, config=SHAPES[shape])
    assert desk.export("toy", "int8") == 0
    content = torch.load(desk.output / "quantized.ckpt", weights_only=True)
    rounded = dequantized(content["state_dict"])
    name = "model.layers.0.mlp.up_proj.weight"
    exact = load_weights(step)[name]
    assert 0 < (rounded[name] - exact).abs().max() <= exact.abs().max() / 127
    tokenizer = read_source(str(step.path)).tokenizer
    described = Described(config=SHAPES[shape], tokenizer=tokenizer)
    foreign = read_source(str(desk.output / "quantized.ckpt"), described)
    assert foreign.config == SHAPES[shape]


def test_int8_of_a_llama_opens_in_transformers_through_torchao(desk: Desk) -> None:
    pytest.importorskip("torchao")
    publish_toy(desk.volume, "toy", 7)
    assert desk.export("toy", "int8") == 0
    config = json.loads((desk.output / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "torchao"
    stored = safetensors.torch.load_file(desk.output / "model.safetensors")
    matrices = [
        tensor for tensor in stored.values() if tensor.dtype == torch.int8 and tensor.shape[1] > 1
    ]
    assert len(matrices) == 7 * SHAPES["llama"].num_hidden_layers


@pytest.mark.parametrize("form", ["gguf", "gguf-q8"])
def test_gguf_reads_back_as_the_same_model_and_tokenizer(desk: Desk, form: str) -> None:
    step = publish_toy(desk.volume, "toy", 7)
    assert desk.export("toy", form) == 0
    (path,) = desk.output.glob("*.gguf")
    foreign = read_source(str(path))
    exact = load_weights(step)
    bound = {"gguf": 1e-3, "gguf-q8": 1e-2}[form]
    for name, weight in foreign.weights.items():
        assert (weight - exact[name]).abs().max() <= bound * exact[name].abs().max(), name
    ours = read_source(str(step.path)).tokenizer
    text = "2024 slings,  and\tarrows"
    assert foreign.tokenizer.encode(text) == ours.encode(text)
    decoder = decoder_from_weights(foreign.config, foreign.weights)
    with torch.inference_mode():
        theirs = decoder(torch.arange(20)[None])
    torch.testing.assert_close(theirs, logits_of(SHAPES["llama"]), atol=0.2, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gguf", "gguf-q8"])
def test_llama_cpp_opens_gguf_and_computes_the_same(desk: Desk, form: str) -> None:
    pytest.importorskip("llama_cpp")  # compiled for minutes where there is no wheel
    publish_toy(desk.volume, "toy", 7)
    assert desk.export("toy", form) == 0
    (path,) = desk.output.glob("*.gguf")
    opened = in_llama_cpp(path)
    assert opened is not None
    theirs = opened.logits(torch.arange(20)[None])
    torch.testing.assert_close(theirs, logits_of(SHAPES["llama"]), atol=0.2, rtol=0)


@pytest.mark.parametrize("shape", ["gpt2", "learned"])
def test_gguf_refuses_other_shapes(
    desk: Desk, shape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_toy(desk.volume, "toy", 7, config=SHAPES[shape])
    assert desk.export("toy", "gguf") == 2
    assert "gguf is written for Llama shapes alone" in capsys.readouterr().err


def test_what_it_costs_is_printed_and_kept_in_the_card(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    train_toy(desk.volume, toy_recipe("optimizer.name=adamw"))
    assert desk.export("toy@best", "fp16") == 0
    printed = capsys.readouterr().out
    rows = re.findall(r"^\| (float32|fp16) \| (\w+) \| .+? \| (\d+)% \|", printed, re.MULTILINE)
    assert [row[:2] for row in rows] == [("float32", "transformers"), ("fp16", "transformers")]
    assert 49 <= int(rows[1][2]) <= 60  # the header of a toy's file counts
    card = (desk.output / "README.md").read_text()
    assert printed.partition("\n\n")[2].strip() in card
    for said in ("## Training", "held-out bits per byte", "micro_batch: 2", "data: math", "curves"):
        assert said in card, said
    assert (desk.output / "curves.png").stat().st_size > 10_000


def test_a_name_that_means_nothing_says_what_there_is(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_toy(desk.volume, "toy", 7)
    assert desk.export("tiny", "hf") == 2
    assert "no run 'tiny'" in capsys.readouterr().err
    assert desk.export("toy@8", "hf") == 2
    assert "run toy has no step '8'; complete ones: 7" in capsys.readouterr().err


def test_nothing_is_written_over(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    publish_toy(desk.volume, "toy", 7)
    desk.output.mkdir()
    assert desk.export("toy", "hf") == 2
    assert "is there already" in capsys.readouterr().err


def test_a_damaged_step_is_not_exported(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    step = publish_toy(desk.volume, "toy", 7)
    path = step.path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert desk.export("toy", "hf") == 2
    assert "SHA-256 differs" in capsys.readouterr().err


def test_help_names_every_format() -> None:
    assert list(FORMATS) == list(FORMAT_HELP)
    assert all(name in build_parser().format_help() for name in FORMATS)

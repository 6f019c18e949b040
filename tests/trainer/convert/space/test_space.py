"""``python -m trainer space``: what is written, and (slow) that it runs and answers by itself."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from machine_tools import free_port
from serving.waiting import wait_until
from torch import nn
from toys import publish_toy, toy_config

from lm.generate import generate
from lm.model.config import ModelConfig
from lm.model.decoder import Decoder, decoder_from_weights
from lm.sampling import SamplingParams
from lm.volume import list_steps
from trainer.__main__ import main
from trainer.convert.exporting.int8 import quantized
from trainer.convert.exporting.reader import quietly
from trainer.convert.exporting.source import read_source
from trainer.recipe.recipes import load_recipe

pytest.importorskip("gradio")
pytest.importorskip("torchao")

from trainer.convert.space.app import load

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
SIZES += ("num_attention_heads", "max_position_embeddings")


def scaled_down(recipe: str) -> ModelConfig:
    """A recipe's architecture, its parts as they are and its sizes a toy's."""
    toy = toy_config()
    config = load_recipe(recipe).model
    return dataclasses.replace(
        config,
        **{name: getattr(toy, name) for name in SIZES},
        num_key_value_heads=4 if config.num_key_value_heads == config.num_attention_heads else 2,
    )


def write(directory: Path, form: str, config: ModelConfig | None = None) -> Path:
    """A Space around a toy in this format."""
    publish_toy(directory / "volume", "toy", 7, config=config or toy_config())
    export, space = directory / f"toy-{form}", directory / "space"
    where = ["--volume", str(directory / "volume"), "--output", str(export)]
    assert main(["export", "toy", "--format", form, "--measure-tokens", "0", *where]) == 0
    assert main(["space", str(export), "--output", str(space)]) == 0
    return space


def test_app_requirements_card_and_model_are_written(tmp_path: Path) -> None:
    space = write(tmp_path, "int8")
    assert (space / "model" / "model.safetensors").is_file()
    compile((space / "app.py").read_text(), "app.py", "exec")
    pins = dict(line.split("==") for line in (space / "requirements.txt").read_text().split())
    assert pins.keys() == {"torch", "transformers", "safetensors", "gradio", "torchao"}
    assert "+" not in pins["torch"]
    _, metadata, text = (space / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(metadata)
    assert (values["title"], values["sdk"]) == ("toy-int8", "gradio")
    assert values["sdk_version"] == pins["gradio"]
    assert text.lstrip().startswith("# toy@7")


def test_what_is_no_export_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["space", str(tmp_path), "--output", str(tmp_path / "space")]) == 2
    assert "export as hf, fp16, bf16 or int8" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"model_type": "mistral"}')
    (tmp_path / "model.safetensors").touch()
    assert main(["space", str(tmp_path), "--output", str(tmp_path / "space")]) == 2
    assert "model_type 'mistral' is none that export writes" in capsys.readouterr().err
    assert not (tmp_path / "space").exists()


class InChunks(nn.Module):
    """A linear layer over the prompt at once and each later token by itself, as a cache has it.

    ``quantize_dynamic`` rounds activations with one scale for all that a call is given. An oracle
    without a cache, which computes the whole text again for each token, agrees with one that has a
    cache only if its scales are of the same tokens.
    """

    def __init__(self, linear: nn.Module, first: int) -> None:
        super().__init__()
        self.linear, self.first = linear, first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes = [self.first] + [1] * (x.shape[1] - self.first)
        return torch.cat([self.linear(chunk) for chunk in x.split(sizes, 1)], 1)


class LastAlone(nn.Module):
    """The head over the last token by itself, and zeros before it."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last = self.linear(x[:, -1:])
        return torch.cat([last.new_zeros(1, x.shape[1] - 1, last.shape[2]), last], 1)


def round_in_chunks(decoder: Decoder, *, first: int) -> None:
    """Give every int8 layer the scales that it has where keys and values are kept."""
    for module in list(decoder.model.layers.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.ao.nn.quantized.dynamic.Linear):
                setattr(module, name, InChunks(child, first))
    decoder.lm_head = LastAlone(decoder.lm_head)  # type: ignore[assignment]


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_without_a_class_in_transformers_it_computes_what_our_generator_does(
    tmp_path: Path, form: str
) -> None:
    config = scaled_down("smollm2-135m-learned")
    space = write(tmp_path, form, config)
    pins = (space / "requirements.txt").read_text()
    assert "tokenizers==" in pins
    assert "transformers" not in pins
    with quietly():  # quantize_dynamic is deprecated
        model = load(space / "model")
    assert model.context == config.max_position_embeddings
    (step,) = list_steps(tmp_path / "volume" / "toy")
    source = read_source(step)
    exact = decoder_from_weights(config, {n: w.half().float() for n, w in source.weights.items()})
    with quietly():
        decoder = quantized(source) if form == "int8" else exact
    tokenizer = source.tokenizer
    greedy = SamplingParams(temperature=0.0)
    ends = tokenizer.eos_token_ids
    prompt = tokenizer.encode("To be, or")
    if form == "int8":
        round_in_chunks(decoder, first=len(prompt))
    ids = list(generate(decoder, prompt, greedy, max_new_tokens=20, eos_token_ids=ends))
    assert len(ids) > 10
    assert "".join(model.continued("To be, or", 20, 0.0)) == tokenizer.decode(ids)
    drawn = ["".join(model.continued("", 8, 1.0)) for _ in range(4)]
    assert any(drawn), "a draw may begin with the end; four in a row do not"
    assert len("".join(model.continued("To be " * 400, 8, 0.0))) > 0, "a prompt beyond the context"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "form"),
    [
        ("smollm2-135m-learned", "int8"),
        ("smollm2-135m-curriculum", "fp16"),
        ("smollm2-135m", "int8"),
    ],
)
def test_it_runs_and_answers_by_itself(tmp_path: Path, recipe: str, form: str) -> None:
    space, port = write(tmp_path, form, scaled_down(recipe)), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
    }
    log = tmp_path / "log"
    with log.open("w") as output:
        command = [sys.executable, "-u", "app.py"]
        app = subprocess.Popen(command, cwd=space, env=environment, stdout=output, stderr=output)
    try:
        wait_until(
            lambda: app.poll() is None and str(port) in log.read_text(), "it runs", timeout_s=180
        )
        ask = (
            "import sys, gradio_client as g; "
            f"c = g.Client('http://127.0.0.1:{port}', verbose=False); "
            "print(c.predict('To be', 8, 0.0, api_name='/generate'))"
        )
        answer = subprocess.run(
            [sys.executable, "-c", ask],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert answer.stdout.startswith("To be"), answer.stderr + log.read_text()
        assert len(answer.stdout.strip()) > len("To be")
    finally:
        app.terminate()
        app.wait(20)

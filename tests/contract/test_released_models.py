"""Released models of our parts: read exactly, served as transformers has them, and exported.

The configs are the published ones; weights are random and sizes scaled down, for what can go wrong
is in the parts and not in the size.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from released_configs import MODELS, scaled_down
from serving import generation_request
from toys import VOCAB_SIZE, toy_tokenizer

from lm.huggingface import Foreign, read_directory
from lm.huggingface.config import from_hf
from lm.model.decoder import Decoder, decoder_from_weights
from lm.text.tokenizer import Tokenizer
from lm.volume import Step, newest_step
from service.engine.engine import Engine
from service.engine.request import TokenGenerated
from service.models.kernels.backend import BackendOptions
from service.models.loading.loader import Loader, LoaderOptions
from service.models.loading.published_model import publish_model
from trainer.convert.exporting import export
from trainer.convert.exporting.reader import in_transformers, quietly
from trainer.convert.importing import Described, read_source

transformers = pytest.importorskip("transformers")

PROMPTS = tuple(tuple(range(20, 20 + length)) for length in (3, 17, 40))
NEW_TOKENS = 24


@pytest.mark.parametrize("name", MODELS)
def test_a_released_shape_has_its_published_size(name: str) -> None:
    config, parameters = MODELS[name]
    assert from_hf(config).num_parameters == parameters


class Released:
    """A model as its release lies on a disk, and the step that the service makes of it."""

    def __init__(self, name: str, here: Path) -> None:
        config = scaled_down(MODELS[name][0], VOCAB_SIZE)
        torch.manual_seed(0)
        self.name, self.directory = name, here / name
        self.model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()
        with torch.no_grad():
            for parameter in self.model.parameters():  # else every prompt has one answer
                parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.15)
        self.model.save_pretrained(self.directory)
        (self.directory / "config.json").write_text(json.dumps(config), "utf-8")
        ends = [config["eos_token_id"]]
        backend = toy_tokenizer().backend
        Tokenizer(backend, bos_token_id=config["bos_token_id"], eos_token_ids=ends).save(
            self.directory
        )
        self.end: int = config["eos_token_id"]
        self.volume = here / "volume"
        self.step: Step = publish_model(str(self.directory), self.volume)

    def answer(self, prompt_ids: tuple[int, ...]) -> list[int]:
        """What transformers answers greedily, without the end."""
        prompt = torch.tensor([prompt_ids])
        mask = torch.ones_like(prompt)
        row = self.model.generate(
            prompt, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0
        )
        new_ids: list[int] = row[0, len(prompt_ids) :].tolist()
        return new_ids[:-1] if new_ids[-1] == self.end else new_ids


@pytest.fixture(scope="module", params=MODELS)
def released(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Released:
    return Released(request.param, tmp_path_factory.mktemp("released"))


def assert_equal_logits(theirs: Any, ours: Decoder, *, atol: float) -> None:
    token_ids = torch.arange(40)[None]
    with torch.inference_mode():
        expected = theirs(token_ids).logits
        assert expected.std() > 1
        torch.testing.assert_close(ours.eval()(token_ids), expected, atol=atol, rtol=0)


def decoder_of(foreign: Foreign) -> Decoder:
    return decoder_from_weights(foreign.config, foreign.to(torch.float32).weights)


def test_it_imports(released: Released) -> None:
    ours = decoder_of(read_directory(released.directory))
    assert_equal_logits(released.model, ours, atol=1e-4)


def engine_of(step: Step) -> Engine:
    options = BackendOptions(
        device=torch.device("cpu"), dtype="float32", num_slots=2, max_step_tokens=32
    )
    loader = Loader(LoaderOptions(backend=options, max_model_tokens=None, verify_hashes=True))
    served = loader.load(step)
    assert served.checkpoint.name == step.name
    assert served.max_model_tokens == 128
    return served.engine


def test_the_engine_answers_as_transformers_does(released: Released) -> None:
    assert newest_step(released.volume / released.name) == released.step
    engine = engine_of(released.step)
    answers: dict[str, list[int]] = {str(number): [] for number in range(len(PROMPTS))}
    for number, prompt_ids in enumerate(PROMPTS):
        engine.submit(generation_request(str(number), prompt_ids, max_new_tokens=NEW_TOKENS))
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, TokenGenerated):
                answers[event.request_id].append(event.token_id)
    assert list(answers.values()) == [released.answer(prompt_ids) for prompt_ids in PROMPTS]
    assert max(len(set(answer)) for answer in answers.values()) > 3, "they say something"


@pytest.mark.parametrize(
    ("form", "dtype"),
    [("hf", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)],
)
def test_a_directory_of_each_precision_reads_back(
    released: Released, form: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    export(released.step, form, tmp_path / "out", max_tokens=0)
    before, after = read_directory(released.directory), read_directory(tmp_path / "out")
    assert after.config == before.config
    assert after.tokenizer.eos_token_ids == (released.end,)
    assert after.weights.keys() == before.weights.keys()
    for name, weight in after.weights.items():
        assert torch.equal(weight, before.weights[name].to(dtype)), name
    theirs = in_transformers(tmp_path / "out").logits(torch.arange(40)[None])
    with torch.inference_mode():
        expected = released.model(torch.arange(40)[None]).logits
    assert (theirs - expected).abs().mean() < expected.std() / 20


def test_the_dict_of_a_training_script_reads_back(released: Released, tmp_path: Path) -> None:
    export(released.step, "torch", tmp_path / "out", max_tokens=0)
    config = read_directory(released.directory).config
    described = Described(config=config, tokenizer=Tokenizer.load(released.directory))
    foreign = read_source(str(tmp_path / "out" / "checkpoint_step_0.pt"), described)
    assert_equal_logits(released.model, decoder_of(foreign), atol=1e-4)


def test_gguf_reads_back(released: Released, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    export(released.step, "gguf", tmp_path / "out", max_tokens=0)
    (path,) = (tmp_path / "out").glob("*.gguf")
    assert_equal_logits(released.model, decoder_of(read_source(str(path))), atol=0.05)


def test_int8_reads_back_in_transformers(released: Released, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    export(released.step, "int8", tmp_path / "out", max_tokens=0)
    assert in_transformers(tmp_path / "out").logits(torch.arange(40)[None]).isfinite().all()
    with quietly():
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    exact = released.model.state_dict()
    rounded = [name for name, weight in model.named_parameters() if hasattr(weight, "qdata")]
    assert len(rounded) == 7 * 2
    for name, weight in model.named_parameters():
        stored = weight.dequantize() if name in rounded else weight
        largest = exact[name].abs().amax(-1, keepdim=True)
        assert ((stored.float() - exact[name]).abs() <= largest / 64).all(), name

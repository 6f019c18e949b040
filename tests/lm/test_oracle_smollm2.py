"""Contract: with the real SmolLM2-135M-Instruct we compute what transformers computes.

The reference is transformers' own reading of the GGUF file; ours goes through ``trainer import``
and the volume. Needs ``make weights``. Greedy text is compared teacher-forced:
the reference's text is scored by our decoder, and another choice is allowed only where
the reference's two best logits are within ``MARGIN``.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lm.model.decoder import Decoder
from lm.text.tokenizer import Tokenizer
from lm.volume import Step, load_model_config, load_weights
from trainer.convert.importing import import_model

transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")
pytest.importorskip("accelerate")

WEIGHTS = Path(__file__).parents[2] / "weights" / "SmolLM2-135M-Instruct.Q4_1.gguf"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not WEIGHTS.is_file() and "REQUIRE_TOOLS" not in os.environ,
        reason=f"no {WEIGHTS.name}: run make weights",
    ),
]

TOLERANCE = 1e-4
MARGIN = 1e-4
NUM_NEW_TOKENS = 64
PROMPTS = (
    "The capital of France is",
    "Once upon a time, there was a little",
    "def fibonacci(n):\n",
    "Q: What is 12 + 30?\nA:",
    "To be, or not to be,",
    "The three laws of thermodynamics are",
    "Dear Sir or Madam,\n\n",
    "1, 2, 3, 5, 8, 13,",
    "In 1969, humans first",
    "<html>\n<body>\n",
    "Photosynthesis is the process by which",
    "My favourite recipe for bread:\n\n1.",
    "import numpy as np\n\nx = ",
    "The quick brown fox",
    "Water boils at",
    "Il était une fois",
    "ROMEO:\n",
    "SELECT name FROM users WHERE",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWrite a haiku about rain.<|im_end|>\n<|im_start|>assistant\n",
)
TRICKY_TEXTS = (
    "",
    " ",
    "Hello, world!",
    "  1",
    "x  =  10;\t\ty = 2024\n\n\n  return 3.14159",
    "don't can't we'll I'M",
    "déjà vu, Ünïcödé, 中文字符, العربية, हिन्दी",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>  <|endoftext|>\n<repo_name>x",
    "a\u00a0b\u200bc\ufeffd\r\ne\x00f",
    "½ ² Ⅷ ٣",
    "trailing spaces   ",
    "\n \n\t \n",
)


@pytest.fixture(scope="module")
def reference() -> Any:
    """transformers' own LlamaForCausalLM, float32, from the GGUF file."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        WEIGHTS.parent, gguf_file=WEIGHTS.name, dtype=torch.float32
    )
    assert type(model) is transformers.LlamaForCausalLM
    assert model.config.rope_parameters["rope_theta"] == 100_000.0
    return model.eval()


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Step:
    return import_model(str(WEIGHTS), tmp_path_factory.mktemp("volume"), run="smollm2")


@pytest.fixture(scope="module")
def tokenizer(step: Step) -> Tokenizer:
    return Tokenizer.load(step.path)


@pytest.fixture(scope="module")
def decoder(step: Step) -> Decoder:
    decoder = Decoder(load_model_config(step)).eval()
    decoder.load_state_dict(load_weights(step), strict=False)
    return decoder


@pytest.fixture(scope="module")
def opened(step: Step) -> Any:
    """What transformers makes of the step directory."""
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        step.path, output_loading_info=True
    )
    assert not any(loading.values()), loading
    return model.eval()


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One prompt and the reference's greedy continuation, scored by both."""

    max_difference: float
    """Over the logits of all positions."""
    new_ids: Tensor
    ours: Tensor
    """Our first choice at each new token."""
    theirs: Tensor
    margin: Tensor
    """Between the reference's two best logits at each new token."""


@pytest.fixture(scope="module")
def comparisons(decoder: Decoder, reference: Any, tokenizer: Tokenizer) -> list[Comparison]:
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    return [
        compare(decoder, reference, prompt_ids, new_ids)
        for prompt_ids, new_ids in zip(prompts, greedy(reference, prompts), strict=True)
    ]


def greedy(reference: Any, prompts: list[list[int]]) -> list[list[int]]:
    """The reference's greedy continuations, all prompts in one batch, padded on the left."""
    width = max(map(len, prompts))
    padded = [[0] * (width - len(prompt_ids)) + prompt_ids for prompt_ids in prompts]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
    out: list[list[int]] = reference.generate(
        torch.tensor(padded),
        attention_mask=torch.tensor(mask),
        do_sample=False,
        max_new_tokens=NUM_NEW_TOKENS,
        min_new_tokens=NUM_NEW_TOKENS,
        pad_token_id=0,
    )[:, width:].tolist()
    return out


def compare(
    decoder: Decoder, reference: Any, prompt_ids: list[int], new_ids: list[int]
) -> Comparison:
    ours = logits_of(decoder, prompt_ids + new_ids)
    theirs = logits_of(reference, prompt_ids + new_ids)
    rows = slice(len(prompt_ids) - 1, -1)
    best = theirs[rows].topk(2).values
    return Comparison(
        max_difference=float((ours - theirs).abs().max()),
        new_ids=torch.tensor(new_ids),
        ours=ours[rows].argmax(-1),
        theirs=theirs[rows].argmax(-1),
        margin=best[:, 0] - best[:, 1],
    )


@torch.no_grad()
def logits_of(model: Any, token_ids: list[int]) -> Tensor:
    """Logits [T, V] of one row, by ours or theirs."""
    out = model(torch.tensor([token_ids]))
    logits: Tensor = out if isinstance(out, Tensor) else out.logits
    return logits[0]


def test_the_published_model_has_its_published_shape(decoder: Decoder) -> None:
    config = decoder.config
    assert sum(weight.numel() for weight in decoder.parameters()) == 134_515_008
    assert (config.rope_theta, config.max_position_embeddings) == (100_000.0, 8192)
    assert config.tie_word_embeddings
    assert config.norm_eps == 1e-5


def test_float32_logits_agree(comparisons: list[Comparison]) -> None:
    assert max(comparison.max_difference for comparison in comparisons) < TOLERANCE


def test_float32_logits_agree_far_into_the_context(decoder: Decoder, reference: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    token_ids = torch.randint(49_152, (1536,), generator=generator).tolist()
    ours, theirs = logits_of(decoder, token_ids), logits_of(reference, token_ids)
    assert (ours - theirs).abs().max() < TOLERANCE


def test_greedy_text_agrees(comparisons: list[Comparison]) -> None:
    assert len(comparisons) == 20
    end = 2
    for comparison in comparisons:
        assert len(comparison.new_ids) == NUM_NEW_TOKENS
        is_clear = comparison.margin > MARGIN
        assert is_clear.float().mean() > 0.9
        assert torch.equal(comparison.ours[is_clear], comparison.theirs[is_clear])
        # The reference was kept from ending early; everywhere else it wrote its first choice.
        is_free = is_clear & (comparison.theirs != end)
        assert torch.equal(comparison.ours[is_free], comparison.new_ids[is_free])


def test_the_step_directory_opens_with_transformers_and_gives_the_same_logits(
    decoder: Decoder, opened: Any, reference: Any, tokenizer: Tokenizer
) -> None:
    assert type(opened) is transformers.LlamaForCausalLM
    assert opened.num_parameters() == 134_515_008
    token_ids = tokenizer.encode(PROMPTS[1] * 8)
    theirs = logits_of(opened, token_ids)
    assert (logits_of(decoder, token_ids) - theirs).abs().max() < TOLERANCE
    assert (logits_of(reference, token_ids) - theirs).abs().max() < TOLERANCE


def test_the_step_s_tokenizer_gives_the_ids_of_transformers(
    step: Step, tokenizer: Tokenizer
) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(step.path)
    for text in (*PROMPTS, *TRICKY_TEXTS):
        token_ids = tokenizer.encode(text)
        assert theirs(text).input_ids == token_ids, text
        assert theirs.decode(token_ids) == text
    messages = [{"role": "user", "content": "What is gravity?"}]
    prompt = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt.endswith(PROMPTS[18])


def test_the_tokenizer_is_the_file_s_but_for_the_digits_that_transformers_joins(
    tokenizer: Tokenizer,
) -> None:
    """The file says ``smollm``: each digit apart first, so spaces before one stay together."""
    theirs = transformers.AutoTokenizer.from_pretrained(WEIGHTS.parent, gguf_file=WEIGHTS.name)
    for text in (*PROMPTS, *TRICKY_TEXTS):
        if not any(character.isnumeric() for character in text):
            assert tokenizer.encode(text) == theirs(text).input_ids, text
    spaces, digit = tokenizer.encode("  1")
    assert tokenizer.decode([spaces]) == "  "
    assert tokenizer.decode([digit]) == "1"

"""The app of a Hugging Face Space: an exported model on a CPU, by itself.

``python -m trainer space`` copies this file as ``app.py``, with the model in ``model/`` beside it.
What transformers has a class for is computed there; for another architecture nestling's decoder,
``lm/``, is copied too, and nothing else of nestling is needed. What is stored in half precision is
computed in float32, which every CPU does well; int8 stays as it is.
"""

import dataclasses
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import torch

MODEL = Path(__file__).parent / "model"
EXAMPLES = ["First Citizen:\n", "The quick brown fox", "def add(a, b):\n"]
TOP_K = 50


@dataclasses.dataclass(frozen=True)
class Model:
    """What the page asks of a model."""

    context: int
    continued: Callable[[str, int, float], Iterator[str]]
    """Prompt, most new tokens and temperature (0: the likeliest) to pieces of text."""


def load(directory: Path) -> Model:
    """The model, in what computes it."""
    config = json.loads((directory / "config.json").read_text("utf-8"))
    return (in_nestling if config["model_type"] == "nestling" else in_transformers)(directory)


def in_transformers(directory: Path) -> Model:
    """With the class that transformers has for it."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

    config = AutoConfig.from_pretrained(directory)
    is_int8 = getattr(config, "quantization_config", None) is not None
    dtype = "auto" if is_int8 else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    model.eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    context: int = config.max_position_embeddings

    def continued(prompt: str, limit: int, temperature: float) -> Iterator[str]:
        inputs = tokenizer(prompt or tokenizer.bos_token, return_tensors="pt")
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        sampling = {"temperature": temperature, "top_k": TOP_K} if temperature > 0 else {}
        options = {
            **{
                name: inputs[name][:, limit - context :] for name in ("input_ids", "attention_mask")
            },
            "streamer": streamer,
            "max_new_tokens": limit,
            "do_sample": temperature > 0,
            "pad_token_id": tokenizer.eos_token_id,
            **sampling,
        }
        threading.Thread(target=model.generate, kwargs=options, daemon=True).start()
        yield from streamer

    return Model(context, continued)


def in_nestling(directory: Path) -> Model:
    """With nestling's decoder, and keys and values kept from token to token."""
    from lm.huggingface.config import from_hf
    from lm.model.decoder import Decoder, decoder_from_weights
    from lm.sampling import SamplingParams, sample
    from lm.text.incremental import incremental_decoder
    from lm.text.tokenizer import Tokenizer

    config = from_hf(json.loads((directory / "config.json").read_text("utf-8")))
    tokenizer = Tokenizer.load(directory)
    quantized = directory / "quantized.ckpt"
    if quantized.is_file():
        dynamic = torch.ao.quantization.quantize_dynamic
        decoder: Decoder = dynamic(  # type: ignore[no-untyped-call]
            Decoder(config).eval(), {torch.nn.Linear}, dtype=torch.qint8
        )
        decoder.load_state_dict(torch.load(quantized, weights_only=True)["state_dict"])
    else:
        from safetensors.torch import load_file

        stored = load_file(directory / "model.safetensors")
        decoder = decoder_from_weights(config, {n: w.float() for n, w in stored.items()}).eval()
    context = config.max_position_embeddings

    @torch.inference_mode()
    def continued(prompt: str, limit: int, temperature: float) -> Iterator[str]:
        seed = int.from_bytes(os.urandom(4))
        params = SamplingParams(temperature=temperature, top_k=TOP_K, seed=seed)
        start = 0 if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        token_ids = (tokenizer.encode(prompt) or [start])[limit - context :]
        text = incremental_decoder(tokenizer, at_start=not prompt)
        attend, past = Cached(), 0
        for index in range(limit):
            positions = torch.arange(past, past + len(token_ids))
            hidden = decoder.hidden(torch.tensor([token_ids]), positions, attend)
            past += len(token_ids)
            token_id = sample(decoder.head(hidden[:, -1])[0], params, index)
            if token_id in tokenizer.eos_token_ids:
                break
            yield text.push(token_id)
            token_ids = [token_id]
        yield text.finish()

    return Model(context, continued)


class Cached:
    """Attention over the tokens so far (``lm.model.attention.Attend``), for one sequence."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Mix values: query [1, Hq, T, D], key and value [1, Hkv, T, D] → [1, Hq, T, D]."""
        if layer in self._kept:
            key, value = (
                torch.cat(pair, 2) for pair in zip(self._kept[layer], (key, value), strict=True)
            )
        self._kept[layer] = key, value
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=query.shape[2] > 1, enable_gqa=True
        )


def build(directory: Path = MODEL) -> gr.Blocks:
    """The page over one model."""
    model = load(directory)
    most = min(512, model.context - 1)

    def generate(prompt: str, max_new_tokens: float, temperature: float) -> Iterator[str]:
        """The prompt continued, token by token."""
        text = prompt
        for piece in model.continued(prompt, min(int(max_new_tokens), most), temperature):
            text += piece
            yield text

    page: gr.Blocks = gr.Blocks(title="A small language model", analytics_enabled=False)
    with page:
        gr.Markdown("# A small language model\nIt continues what you begin.")
        prompt = gr.Textbox(EXAMPLES[0], label="Prompt", lines=3)
        limit = gr.Slider(1, most, min(100, most), step=1, label="Tokens")
        temperature = gr.Slider(0.0, 1.5, 0.8, step=0.05, label="Temperature (0: the likeliest)")
        go = gr.Button("Continue", variant="primary")
        text = gr.Textbox(label="Text", lines=10)
        gr.Examples(EXAMPLES, prompt)
        go.click(generate, [prompt, limit, temperature], text, api_name="generate")
    return page


if __name__ == "__main__":
    # One answer at a time: a small CPU gains nothing from more, and the queue shows one's place.
    build().queue(default_concurrency_limit=1, max_size=32).launch(
        server_name=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0")  # noqa: S104 - a container
    )

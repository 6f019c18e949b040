"""The app of a Hugging Face Space: an exported model on a CPU, by itself.

``python -m trainer space`` copies this file as ``app.py``; it knows nothing of nestling. The model
is in ``model/`` beside it. What is stored in half precision is computed in float32, which every CPU
does well; int8 stays as it is.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

MODEL = Path(__file__).parent / "model"
EXAMPLES = ["First Citizen:\n", "The quick brown fox", "def add(a, b):\n"]


def load(directory: Path) -> tuple[Any, Any]:
    """Tokenizer and model."""
    config = AutoConfig.from_pretrained(directory)
    is_int8 = getattr(config, "quantization_config", None) is not None
    dtype = "auto" if is_int8 else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    return AutoTokenizer.from_pretrained(directory), model.eval()


def build(directory: Path = MODEL) -> gr.Blocks:
    """The page over one model."""
    tokenizer, model = load(directory)
    context = model.config.max_position_embeddings

    def generate(prompt: str, max_new_tokens: float, temperature: float) -> Iterator[str]:
        """The prompt continued, token by token."""
        limit = min(int(max_new_tokens), context - 1)
        inputs = tokenizer(prompt or tokenizer.bos_token, return_tensors="pt")
        inputs = {
            name: inputs[name][:, -(context - limit) :] for name in ("input_ids", "attention_mask")
        }
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        options = {
            **inputs,
            "streamer": streamer,
            "max_new_tokens": limit,
            "do_sample": temperature > 0,
            "pad_token_id": tokenizer.eos_token_id,
        }
        if temperature > 0:
            options |= {"temperature": temperature, "top_k": 50}
        threading.Thread(target=model.generate, kwargs=options, daemon=True).start()
        text = prompt
        for piece in streamer:
            text += piece
            yield text

    page: gr.Blocks = gr.Blocks(title="A small language model", analytics_enabled=False)
    with page:
        gr.Markdown("# A small language model\nIt continues what you begin.")
        prompt = gr.Textbox(EXAMPLES[0], label="Prompt", lines=3)
        limit = gr.Slider(1, min(512, context - 1), min(100, context - 1), step=1, label="Tokens")
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

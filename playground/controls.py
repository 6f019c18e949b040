"""The checkpoint picker and the sliders under a prompt and under a chat."""

import dataclasses
from typing import Any

import gradio as gr

from playground.requests import NEWEST, Asking


@dataclasses.dataclass(frozen=True, kw_only=True)
class Controls:
    """Components by the field of ``Asking`` that each sets."""

    model: gr.Dropdown
    temperature: gr.Slider
    top_p: gr.Slider
    top_k: gr.Slider
    max_tokens: gr.Slider
    seed: gr.Textbox
    stop: gr.Textbox

    @property
    def inputs(self) -> list[Any]:
        """In the order of the fields, so that ``Asking(*values)`` takes what they give."""
        return [getattr(self, field.name) for field in dataclasses.fields(Asking)]


def controls(tab: str, first: Asking) -> Controls:
    """Draw them, set to ``first``; those of two tabs are told apart by their element ids."""
    model = gr.Dropdown([NEWEST], value=first.model, label="Checkpoint", elem_id=f"{tab}-model")
    with gr.Accordion("Sampling", open=False, elem_id=f"{tab}-sampling"):
        return Controls(
            model=model,
            temperature=gr.Slider(0.0, 2.0, first.temperature, step=0.05, label="Temperature"),
            top_p=gr.Slider(0.05, 1.0, first.top_p, step=0.05, label="Top p"),
            top_k=gr.Slider(0, 200, first.top_k, step=1, label="Top k (0: all)"),
            max_tokens=gr.Slider(1, 1024, first.max_tokens, step=1, label="Most tokens"),
            seed=gr.Textbox(first.seed, label="Seed (empty: drawn)", max_lines=1),
            stop=gr.Textbox(first.stop, label="Stop texts, one a line", lines=2),
        )

"""The page: what is where, and which action answers what."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr

from playground.actions import MAX_SIDE_BY_SIDE, Actions, Shown
from playground.controls import Controls, controls
from playground.requests import NEWEST, Asking

REFRESH_S, WATCH_S = 5.0, 3.0
ANSWERS = "answers"
"""The one queue of all that the model is asked: a place in it counts everyone before one."""
CHATTY = Asking(temperature=0.2, top_p=0.9)
QUESTIONS = ["Who are you?", "Write a line about the sea.", "What is two and two?"]
EXAMPLES = ["First Citizen:\n", "ROMEO:\nO, ", "The quick brown fox", "def add(a, b):\n"]
THEME = gr.themes.Default(
    font=["system-ui", "sans-serif"],  # nothing is fetched from elsewhere
    font_mono=["ui-monospace", "monospace"],
)
CSS = """
.cards { display: flex; flex-wrap: wrap; gap: .75rem; }
.card { flex: 1 1 16rem; border: 1px solid var(--border-color-primary); border-radius: .5rem;
        padding: .75rem; }
.card p { white-space: pre-wrap; overflow-wrap: anywhere; font-family: ui-monospace, monospace; }
.curves { width: 100%; max-height: 26rem; font-size: 11px; }
.curves text { fill: currentColor; }
.curves polyline { fill: none; stroke-width: 2; }
.curves .axis { stroke: currentColor; opacity: .4; }
.curves .train { stroke: #6b8afd; opacity: .6; } .legend .train { color: #6b8afd; }
.curves .held-out { stroke: #e8871e; } .legend .held-out { color: #e8871e; }
.curves .swap { stroke: #2e9e5b; opacity: .5; stroke-dasharray: 3 3; }
.legend .swap { color: #2e9e5b; }
.curves .refusal { stroke: #d33; stroke-width: 2; } .legend .refusal { color: #d33; }
.legend span { margin-right: 1rem; }
footer { display: none !important; }
"""


def build_page(actions: Actions) -> gr.Blocks:
    """The whole page over one service."""
    page: gr.Blocks = gr.Blocks(title="nestling", analytics_enabled=False)
    with page:
        gr.Markdown("# nestling\nA small language model, served while it learns.")
        with gr.Tab("Prompt") as prompting:
            pickers = [_prompt_tab(actions).model]
        with gr.Tab("Chat") as chatting:
            pickers.append(_chat_tab(actions).model)
        with gr.Tab("Watch it learn") as watching:
            compared, outputs = _watch_tab(actions)
        _keep_listed(page, actions, [*pickers, compared])
        watch = gr.Timer(WATCH_S, active=False)
        for moment in (watching.select, watch.tick):
            moment(actions.watch, None, outputs, show_progress="hidden")
        watching.select(lambda: gr.Timer(active=True), None, watch)
        for tab in (prompting, chatting):  # nobody looks: nothing is asked
            tab.select(lambda: gr.Timer(active=False), None, watch)
    return page


def _keep_listed(page: gr.Blocks, actions: Actions, pickers: Sequence[gr.Dropdown]) -> None:
    """Offer each new checkpoint while the page is open; what is chosen is never touched."""
    offered: gr.State = gr.State([])

    async def refresh(before: list[str], *chosen: str | list[str] | None) -> list[Any]:
        names = await actions.models()
        if names is None or names == before:
            return [gr.skip()] * (1 + len(pickers))
        several = [one if isinstance(one, list) else [one or NEWEST] for one in chosen]
        return [names, *(gr.Dropdown(choices=_with(names, *these)) for these in several)]

    for moment in (page.load, gr.Timer(REFRESH_S).tick):
        moment(refresh, [offered, *pickers], [offered, *pickers], show_progress="hidden")


def _with(names: list[str], *chosen: str) -> list[str]:
    """Names that can be chosen, those that are chosen among them though they may be gone."""
    return names + [name for name in chosen if name not in names]


def _prompt_tab(actions: Actions) -> Controls:
    prompt = gr.Textbox(EXAMPLES[0], label="Prompt", lines=3, elem_id="prompt")
    with gr.Row():
        go = gr.Button("Continue", variant="primary", elem_id="go")
        stop = gr.Button("Stop", variant="stop", elem_id="stop")
    text = gr.Textbox(label="Text", lines=10, interactive=False, elem_id="text")
    said = gr.Markdown(elem_id="said")
    set_to = controls("prompt", Asking())
    gr.Examples(EXAMPLES, prompt)
    asked = gr.on([go.click, prompt.submit], lambda: "…", None, said, queue=False)
    _answer(asked, stop, actions.generate, [prompt, *set_to.inputs], [text, said])
    return set_to


def _chat_tab(actions: Actions) -> Controls:
    messages = gr.Chatbot(label="Chat", height=420, elem_id="chat", buttons=["copy"])
    question = gr.Textbox(label="Message", lines=2, elem_id="question")
    with gr.Row():
        send = gr.Button("Send", variant="primary", elem_id="send")
        stop = gr.Button("Stop", variant="stop", elem_id="chat-stop")
        clear = gr.Button("New chat", elem_id="clear")
    said = gr.Markdown(elem_id="chat-said")
    set_to = controls("chat", CHATTY)
    gr.Examples(QUESTIONS, question)

    def ask(text: str, so_far: list[Any]) -> tuple[str, list[Any], str]:
        more = [{"role": "user", "content": text}] if text.strip() else []
        return "", [*so_far, *more], "…"

    starts, shown = [send.click, question.submit], [question, messages, said]
    asked = gr.on(starts, ask, [question, messages], shown, queue=False)
    inputs = [messages, *set_to.inputs]
    running = _answer(asked, stop, actions.chat, inputs, [messages, said])
    clear.click(lambda: ([], ""), None, [messages, said], cancels=[running], queue=False)
    return set_to


def _answer(asked: Any, stop: gr.Button, action: Any, inputs: list[Any], outputs: list[Any]) -> Any:
    """After the event ``asked`` ask the model, in the queue, until it ends or is stopped."""
    running = asked.then(
        _spoken(action), inputs, outputs, concurrency_id=ANSWERS, api_name=action.__name__
    )
    # Leaving the generator closes its connection, which frees the slot in the service.
    stop.click(lambda: "stopped", None, outputs[-1], cancels=[running], queue=False)
    return running


def _spoken(
    action: Callable[[Any, Asking], AsyncGenerator[Shown[Any], None]],
) -> Callable[..., AsyncGenerator[tuple[Any, Any], None]]:
    """As the page calls it. A line that stays is not sent: it could come after "stopped"."""

    async def speak(first: Any, *values: Any) -> AsyncGenerator[tuple[Any, Any], None]:
        async with aclosing(action(first, Asking(*values))) as shown:
            async for what, said in shown:
                yield what, gr.skip() if said is None else said

    return speak


def _watch_tab(actions: Actions) -> tuple[gr.Dropdown, list[Any]]:
    served = gr.Markdown(elem_id="served")
    drawn = gr.HTML(elem_id="curves")
    gr.Markdown(f"### One prompt, up to {MAX_SIDE_BY_SIDE} checkpoints")
    with gr.Row():
        prompt = gr.Textbox(EXAMPLES[0], label="Prompt", lines=2, elem_id="beside-prompt")
        compared = gr.Dropdown(
            [],
            multiselect=True,
            max_choices=MAX_SIDE_BY_SIDE,
            label="Checkpoints",
            elem_id="compared",
        )
    with gr.Row():
        limit = gr.Slider(1, 256, 64, step=1, label="Most tokens")
        temperature = gr.Slider(0.0, 2.0, 0.0, step=0.05, label="Temperature")
    beside = gr.HTML(elem_id="beside")
    gr.Button("Compare", variant="primary", elem_id="compare").click(
        actions.compare, [prompt, compared, limit, temperature], beside, concurrency_id=ANSWERS
    )
    gr.Markdown("### Samples while it trains")
    return compared, [served, drawn, gr.HTML(elem_id="samples")]

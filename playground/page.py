"""The page: what is where, and which action answers what."""

from typing import Any

import gradio as gr

from playground.actions import MAX_SIDE_BY_SIDE, NEWEST, Actions

REFRESH_S, WATCH_S = 5.0, 3.0
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
            pickers = [_prompt_tab(actions)]
        with gr.Tab("Chat") as chatting:
            pickers.append(_chat_tab(actions))
        with gr.Tab("Watch it learn") as watching:
            compared, outputs = _watch_tab(actions)
        clock = gr.Timer(REFRESH_S)
        watch = gr.Timer(WATCH_S, active=False)

        async def refresh(*chosen: Any) -> list[Any]:
            names = await actions.models()
            kept = [
                gr.Dropdown(choices=_with(names, value), value=value or NEWEST)
                for value in chosen[:-1]
            ]
            several = list(chosen[-1] or [])
            return [*kept, gr.Dropdown(choices=_with(names[1:], *several), value=several)]

        for moment in (page.load, clock.tick):
            moment(refresh, [*pickers, compared], [*pickers, compared], show_progress="hidden")
        for moment in (watching.select, watch.tick):
            moment(actions.watch, None, outputs, show_progress="hidden")
        watching.select(lambda: gr.Timer(active=True), None, watch)
        for tab in (prompting, chatting):  # nobody looks: nothing is asked
            tab.select(lambda: gr.Timer(active=False), None, watch)
    return page


def _with(names: list[str], *chosen: str) -> list[str]:
    """Names that can be chosen, those that are chosen among them though they may be gone."""
    return names + [name for name in chosen if name and name not in names]


def _picker() -> gr.Dropdown:
    return gr.Dropdown([NEWEST], value=NEWEST, label="Checkpoint", filterable=True)


def _prompt_tab(actions: Actions) -> gr.Dropdown:
    prompt = gr.Textbox(EXAMPLES[0], label="Prompt", lines=3, elem_id="prompt")
    with gr.Row():
        go = gr.Button("Continue", variant="primary", elem_id="go")
        stop = gr.Button("Stop", variant="stop", elem_id="stop")
    text = gr.Textbox(label="Text", lines=10, interactive=False, elem_id="text")
    said = gr.Markdown(elem_id="said")
    picker = _picker()
    with gr.Accordion("Sampling", open=False):
        temperature = gr.Slider(0.0, 2.0, 0.8, step=0.05, label="Temperature")
        top_p = gr.Slider(0.05, 1.0, 1.0, step=0.05, label="Top p")
        top_k = gr.Slider(0, 200, 50, step=1, label="Top k (0: all)")
        limit = gr.Slider(1, 1024, 100, step=1, label="Most tokens", elem_id="limit")
        seed = gr.Number(None, label="Seed (empty: drawn)", precision=0, minimum=0)
        stops = gr.Textbox("", label="Stop texts, one a line", lines=2)
    gr.Examples(EXAMPLES, prompt)
    inputs = [prompt, picker, temperature, top_p, top_k, limit, seed, stops]
    running = gr.on([go.click, prompt.submit], actions.generate, inputs, [text, said])
    # Leaving the generator closes its connection, which frees the slot in the service.
    stop.click(lambda: "stopped", None, said, cancels=[running], queue=False)
    return picker


def _chat_tab(actions: Actions) -> gr.Dropdown:
    messages = gr.Chatbot(label="Chat", height=420, elem_id="chat", buttons=["copy"])
    question = gr.Textbox(label="Message", lines=2, elem_id="question")
    with gr.Row():
        send = gr.Button("Send", variant="primary", elem_id="send")
        stop = gr.Button("Stop", variant="stop")
        clear = gr.Button("New chat")
    said = gr.Markdown(elem_id="chat-said")
    picker = _picker()
    with gr.Accordion("Sampling", open=False):
        temperature = gr.Slider(0.0, 2.0, 0.2, step=0.05, label="Temperature")
        top_p = gr.Slider(0.05, 1.0, 0.9, step=0.05, label="Top p")
        limit = gr.Slider(1, 1024, 256, step=1, label="Most tokens")
        seed = gr.Number(None, label="Seed (empty: drawn)", precision=0, minimum=0)

    def ask(text: str, so_far: list[Any]) -> tuple[str, list[Any]]:
        return "", [*so_far, {"role": "user", "content": text}]

    asked = gr.on([send.click, question.submit], ask, [question, messages], [question, messages])
    sampling = [picker, temperature, top_p, limit, seed]
    running = asked.then(actions.chat, [messages, *sampling], [messages, said])
    stop.click(lambda: "stopped", None, said, cancels=[running], queue=False)
    clear.click(lambda: ([], ""), None, [messages, said])
    return picker


def _watch_tab(actions: Actions) -> tuple[gr.Dropdown, list[Any]]:
    served = gr.Markdown(elem_id="served")
    drawn = gr.HTML(elem_id="curves")
    gr.Markdown(f"### One prompt, up to {MAX_SIDE_BY_SIDE} checkpoints")
    with gr.Row():
        prompt = gr.Textbox(EXAMPLES[0], label="Prompt", lines=2)
        compared = gr.Dropdown(
            [], multiselect=True, max_choices=MAX_SIDE_BY_SIDE, label="Checkpoints"
        )
    with gr.Row():
        limit = gr.Slider(1, 256, 64, step=1, label="Most tokens")
        temperature = gr.Slider(0.0, 2.0, 0.0, step=0.05, label="Temperature")
    beside = gr.HTML(elem_id="beside")
    gr.Button("Compare", variant="primary", elem_id="compare").click(
        actions.compare, [prompt, compared, limit, temperature], beside
    )
    gr.Markdown("### Samples while it trains")
    return compared, [served, drawn, gr.HTML(elem_id="samples")]

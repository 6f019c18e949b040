"""One example of every route, for the OpenAPI page; a test compares each with what is answered."""

import dataclasses
from collections.abc import Mapping
from typing import Any

NAME = "tiny@500"
FINGERPRINT = "1b9d3f0a5c27…"
SAID = " speak, speak."
ASKED = {"prompt": "First Citizen:", "max_new_tokens": 64, "temperature": 0.8, "seed": 7}
CHAT = {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 64, "seed": 7}
INPUTS = {"inputs": "First Citizen:", "parameters": {"max_new_tokens": 64, "details": True}}

CHECKPOINT = {"name": NAME, "run": "tiny", "step": 500, "fingerprint": FINGERPRINT}
ENDING = {
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 4, "completion_tokens": 5},
    "timings": {"queue_s": 0.0004, "ttft_s": 0.004, "total_s": 0.02},
    "checkpoint": CHECKPOINT,
    "seed": 7,
    "text": "",
}
OPENAI_HEAD = {
    "id": "cmpl-4f6d8e0b",
    "created": 1790000000,
    "model": NAME,
    "system_fingerprint": f"{NAME}:{FINGERPRINT}",
}
OPENAI_USAGE = {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}
COMPLETION_CHOICE = {"index": 0, "text": SAID, "logprobs": None, "finish_reason": "stop"}
COMPLETION = {**OPENAI_HEAD, "object": "text_completion", "choices": [COMPLETION_CHOICE]}
CHAT_HEAD = {**OPENAI_HEAD, "id": "chatcmpl-4f6d8e0b"}
DELTA = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
MESSAGE = {"role": "assistant", "content": SAID, "refusal": None}
TGI_TOKEN = {"id": 271, "text": SAID, "logprob": -1.25, "special": False}
TGI_ENDING = {"finish_reason": "eos_token", "generated_tokens": 5, "seed": None}
TGI_ANSWER = {
    "generated_text": SAID,
    "details": {**TGI_ENDING, "prefill": [], "tokens": [TGI_TOKEN], "top_tokens": None},
}
TGI_EVENT = {
    "index": 5,
    "token": TGI_TOKEN,
    "generated_text": SAID,
    "details": {**TGI_ENDING, "input_length": 4},
}
STEP = {
    **CHECKPOINT,
    "created_at": "2026-11-25T12:00:00+00:00",
    "metrics": {"train_loss": 1.9, "val_loss": 2.1, "val_bits_per_byte": 1.4},
    "flags": [],
    "probe_bits_per_byte": 2.5,
    "status": "served",
    "on_volume": True,
    "reason": None,
    "message": None,
}
MODEL = {
    "id": "tiny",
    "object": "model",
    "created": 1790000000,
    "owned_by": "nestling",
    "checkpoint": NAME,
    "sampling_defaults": {},
}
READY = {"status": "ready", "reason": None, "checkpoint": NAME}
METRICS = (
    "# HELP nestling_num_requests_running Requests that hold a slot.\n"
    "# TYPE nestling_num_requests_running gauge\n"
    "nestling_num_requests_running 3.0\n"
)
ERROR = {
    "error": {
        "message": "unknown field 'temprature'; did you mean temperature?",
        "type": "invalid_request_error",
        "code": "invalid_request",
        "param": "temprature",
    }
}
TGI_ERROR = {"error": "best_of is not supported here", "error_type": "validation"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """What may be asked of a route, and what it then answers."""

    body: dict[str, Any] | None = None
    answer: object = None
    """``None`` where there is but the stream."""
    last_event: dict[str, Any] | None = None
    """Of a stream, before its end marker."""
    ends_with_done: bool = True


EXAMPLES: Mapping[str, Example] = {
    "/generate": Example(body=ASKED, answer={**ENDING, "text": SAID}, last_event=ENDING),
    "/v1/completions": Example(
        body={"prompt": "First Citizen:", "max_tokens": 64, "temperature": 0.8, "seed": 7},
        answer={**COMPLETION, "usage": OPENAI_USAGE},
        last_event=COMPLETION,
    ),
    "/v1/chat/completions": Example(
        body=CHAT,
        answer={
            **CHAT_HEAD,
            "object": "chat.completion",
            "choices": [
                {"index": 0, "message": MESSAGE, "logprobs": None, "finish_reason": "stop"}
            ],
            "usage": OPENAI_USAGE,
        },
        last_event={**CHAT_HEAD, "object": "chat.completion.chunk", "choices": [DELTA]},
    ),
    "/": Example(body=INPUTS, answer=[TGI_ANSWER], last_event=TGI_EVENT, ends_with_done=False),
    "/generate_stream": Example(body=INPUTS, last_event=TGI_EVENT, ends_with_done=False),
    "/info": Example(
        answer={
            "model_id": NAME,
            "model_sha": FINGERPRINT,
            "model_dtype": "int8",
            "model_device_type": "cpu",
            "max_concurrent_requests": 288,
            "max_best_of": 1,
            "max_stop_sequences": 16,
            "max_input_tokens": 2047,
            "max_total_tokens": 2048,
            "router": "nestling",
            "version": "0.1.0",
        }
    ),
    "/tokenize": Example(
        body={"prompt": "To be"}, answer={"tokens": [51, 78], "count": 2, "max_model_len": 256}
    ),
    "/detokenize": Example(body={"tokens": [51, 78]}, answer={"prompt": "To be"}),
    "/v1/models": Example(answer={"object": "list", "data": [MODEL]}),
    "/v1/models/{name}": Example(answer=MODEL),
    "/checkpoints": Example(
        answer={
            "run": "tiny",
            "pinned": None,
            "problem": None,
            "left_out": {},
            "checkpoints": [STEP],
        }
    ),
    "/checkpoints/reload": Example(
        body={"model": "tiny", "pin": True},
        answer={"served": CHECKPOINT, "loaded": CHECKPOINT, "pinned": True},
    ),
    "/runs/{run}/history": Example(
        answer={
            "run": "tiny",
            "training": [{"step": 500, "loss": 1.9}],
            "evaluations": [{"step": 500, "loss": 2.1, "bits_per_byte": 1.4}],
            "samples": [{"step": 500, "prompt": "First Citizen:", "text": SAID}],
            "served": [{"name": NAME, "step": 500, "at": 1790000000.0}],
        }
    ),
    "/healthz": Example(answer={"status": "ok", "reason": None, "checkpoint": None}),
    "/readyz": Example(answer=READY),
    "/health": Example(answer=READY),
    "/version": Example(
        answer={
            "version": "0.1.0",
            "torch": "2.13.0",
            "device": "cpu",
            "dtype": "int8",
            "backend": "native avx512",
            "not_fused": None,
            "num_slots": 32,
            "checkpoint": CHECKPOINT,
        }
    ),
    "/metrics": Example(answer=METRICS),
}
PATH_EXAMPLES = {"name": "tiny", "run": "tiny"}
"""Parts of paths."""

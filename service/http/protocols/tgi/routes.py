"""TGI's routes: ``POST /``, where Hugging Face's client posts, and ``POST /generate_stream``."""

import json
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response

from service.engine.request import Finished, FinishReason, PromptScored, TokenGenerated, TokenScore
from service.errors import ServiceError
from service.front import Front
from service.http.answering.answer import Said, VoiceOf, answer
from service.http.answering.bodies import BoundedRoute
from service.http.dependencies import FrontDep
from service.http.error_format import tgi_error
from service.http.protocols.fields import MAX_STOP_STRINGS
from service.http.protocols.tgi.schemas import TGIError, TGIInfo, TGIRequest, TGIResponse
from service.http.protocols.token_text import token_text
from service.http.schema import ErrorBody
from service.requests.reply_group import Chorus
from service.requests.tracker import ReplyEvent
from service.version import version as installed_version

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": TGIError} for status in (400, 413, 422, 429, 500, 503, 504)
}

router = APIRouter(tags=["text-generation-inference"], route_class=BoundedRoute)


@router.post("/", response_model=list[TGIResponse], responses=ERRORS)
async def root(body: TGIRequest, request: Request, runtime: FrontDep) -> Response:
    """Continue a prompt, as a list of one answer or as a stream."""
    return await reply_to(body, request, runtime, stream=body.stream, in_list=True)


@router.post("/generate_stream", response_model=TGIResponse, responses=ERRORS)
async def generate_stream(body: TGIRequest, request: Request, runtime: FrontDep) -> Response:
    """Continue a prompt as a stream of events `data:{"index", "token", …}`."""
    return await reply_to(body, request, runtime, stream=True)


@router.get("/info", responses={503: {"model": ErrorBody}})
async def info(runtime: FrontDep) -> TGIInfo:
    """What serves, and its limits."""
    model, settings = runtime.model(), runtime.settings
    return TGIInfo(
        model_id=model.checkpoint.name,
        model_sha=model.checkpoint.fingerprint,
        model_dtype=model.dtype,
        model_device_type=model.device,
        max_concurrent_requests=settings.slots + settings.max_waiting_requests,
        max_stop_sequences=MAX_STOP_STRINGS,
        max_input_tokens=model.max_model_tokens - 1,
        max_total_tokens=model.max_model_tokens,
        version=installed_version(),
    )


async def reply_to(
    body: TGIRequest, request: Request, runtime: Front, *, stream: bool, in_list: bool = False
) -> Response:
    """Answer in TGI's shape."""

    def voice_of(chorus: Chorus) -> TGIVoice:
        return TGIVoice(chorus, body, in_list=in_list)

    speaking: VoiceOf = voice_of
    return await answer(request, runtime, body.ask, speaking, stream=stream)


class TGIVoice:
    """Says answers as text-generation-inference does."""

    ends_with_done = False

    def __init__(self, chorus: Chorus, body: TGIRequest, *, in_list: bool) -> None:
        self._chorus = chorus
        self._reply = chorus.first
        self._tokenizer = chorus.first.model.tokenizer
        self._body = body
        self._in_list = in_list
        self._texts: list[str] = [body.inputs] if body.parameters.return_full_text else []
        self._num_said = 0
        self._held: TokenGenerated | None = None

    def whole(self, answers: list[Said]) -> object:
        """Text, and details if they were asked for."""
        (said,) = answers
        assert said.end is not None, "whole answers have ended"
        whole: dict[str, object] = {"generated_text": "".join([*self._texts, said.text])}
        if self._body.parameters.details or self._body.parameters.decoder_input_details:
            whole["details"] = self._ending(said.end) | {
                "prefill": [] if said.prompt is None else self._prefill(said.prompt),
                "tokens": [self._token(token) for token in said.tokens],
                "top_tokens": [self._top(token.score) for token in said.tokens]
                if self._body.parameters.top_n_tokens
                else None,
            }
        return [whole] if self._in_list else whole

    def events(self, index: int, event: ReplyEvent) -> Iterator[str]:
        """A token an event; the last one's has the whole text, too, so it waits for the end."""
        del index  # there is one answer
        if self._held is not None:
            held, self._held = self._held, None
            last = event if isinstance(event, Finished) else None
            yield self._event(held, last)
            if last is not None:
                return
        if isinstance(event, TokenGenerated):
            if self._chorus.has_event:
                self._held = event
            else:
                yield self._event(event, None)
        elif isinstance(event, Finished):
            own_end = next(iter(self._tokenizer.eos_token_ids), 0)
            end_id = own_end if event.score is None else event.score.token_id
            yield self._event(TokenGenerated(event.request_id, end_id, "", event.score), event)

    def closing(self) -> Iterator[str]:
        """Nothing."""
        return iter(())

    def error(self, error: ServiceError) -> str:
        """TGI's shape."""
        return json.dumps(tgi_error(error))

    def _event(self, token: TokenGenerated, end: Finished | None) -> str:
        self._num_said += 1
        said = self._token(token)
        if end is not None:
            said["text"] = token.text + end.text
        self._texts.append(str(said["text"]))
        event: dict[str, object] = {
            "index": self._num_said,
            "token": said,
            "generated_text": None if end is None else "".join(self._texts),
            "details": None,
        }
        if self._body.parameters.top_n_tokens:
            event["top_tokens"] = self._top(token.score)
        if end is not None:
            length = len(self._reply.request.prompt_ids)
            event["details"] = self._ending(end) | {"input_length": length}
        return json.dumps(event, ensure_ascii=False, separators=(",", ":"))

    def _ending(self, end: Finished) -> dict[str, object]:
        reason = "length"
        if end.reason is FinishReason.STOP:
            reason = "stop_sequence" if end.by_text else "eos_token"
        return {
            "finish_reason": reason,
            "generated_tokens": self._reply.num_tokens,
            "seed": self._reply.request.sampling.seed if self._body.parameters.samples else None,
        }

    def _token(self, token: TokenGenerated) -> dict[str, object]:
        return {
            "id": token.token_id,
            "text": token.text,
            "logprob": 0.0 if token.score is None else token.score.logprob,
            "special": token.token_id in self._tokenizer.special_token_ids,
        }

    def _top(self, score: TokenScore | None) -> list[dict[str, object]]:
        return [
            {
                "id": token_id,
                "text": token_text(self._tokenizer, token_id),
                "logprob": logprob,
                "special": token_id in self._tokenizer.special_token_ids,
            }
            for token_id, logprob in (() if score is None else score.top)
        ]

    def _prefill(self, prompt: PromptScored) -> list[dict[str, object]]:
        """The prompt's tokens; the first has no score, since nothing precedes it."""
        ids = self._reply.request.prompt_ids
        logprobs = [None, *(score.logprob for score in prompt.scores)]
        return [
            {"id": token_id, "text": token_text(self._tokenizer, token_id), "logprob": logprob}
            for token_id, logprob in zip(ids, logprobs, strict=True)
        ]

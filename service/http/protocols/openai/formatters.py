"""Says answers as OpenAI's API does: ids, chunks, usage, log-probabilities."""

import abc
import collections
import json
import time
from collections.abc import Iterator
from typing import Any

from service.engine.request import Finished, PromptScored, TokenGenerated, TokenScore
from service.errors import ServiceError
from service.http.answering.answer import Said, usage
from service.http.errors import error_body
from service.http.protocols.openai.schemas import ChatRequest, CompletionRequest, OpenAIFields
from service.http.protocols.token_text import Offsets, prompt_utf8, text_of, token_text, utf8
from service.requests.reply_group import Chorus
from service.requests.tracker import ReplyEvent


class OpenAIVoice(abc.ABC):
    """What completions and chats have in common."""

    ends_with_done = True
    id_prefix = ""
    whole_object = ""
    chunk_object = ""

    def __init__(self, chorus: Chorus, body: OpenAIFields) -> None:
        checkpoint = chorus.first.model.checkpoint
        options = body.stream_options
        self._chorus = chorus
        self._tokenizer = chorus.first.model.tokenizer
        self._says_usage = options is not None and options.include_usage
        self._counts_always = options is not None and options.continuous_usage_stats
        self._head: dict[str, object] = {
            "id": f"{self.id_prefix}-{chorus.first.arrival.request_id}",
            "created": int(time.time()),
            "model": checkpoint.name,
            "system_fingerprint": f"{checkpoint.name}:{checkpoint.fingerprint}",
        }

    def whole(self, answers: list[Said]) -> object:
        """All answers in one body."""
        return self._head | {
            "object": self.whole_object,
            "choices": [self.choice(index, said) for index, said in enumerate(answers)],
            "usage": usage(self._chorus),
        }

    @abc.abstractmethod
    def choice(self, index: int, said: Said) -> dict[str, object]:
        """One whole answer."""

    @abc.abstractmethod
    def events(self, index: int, event: ReplyEvent) -> Iterator[str]:
        """Chunks of one choice."""

    def chunk(self, choices: list[dict[str, object]]) -> str:
        """One event of a stream."""
        event = self._head | {"object": self.chunk_object, "choices": choices}
        if self._counts_always:
            event["usage"] = usage(self._chorus)
        elif self._says_usage:
            event["usage"] = None
        return json.dumps(event, ensure_ascii=False, separators=(",", ":"))

    def closing(self) -> Iterator[str]:
        """The usage, if it was asked for."""
        if self._says_usage:
            last = self._head | {"object": self.chunk_object, "choices": []}
            yield json.dumps(last | {"usage": usage(self._chorus)}, separators=(",", ":"))

    def error(self, error: ServiceError) -> str:
        """The one error shape, which is OpenAI's."""
        return error_body(error).model_dump_json()


class CompletionVoice(OpenAIVoice):
    """``text_completion`` objects."""

    id_prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def __init__(self, chorus: Chorus, body: CompletionRequest) -> None:
        super().__init__(chorus, body)
        self._echoes = body.echo
        self._offsets = [Offsets() for _ in chorus.replies]
        self._prompts: dict[int, collections.deque[bytes]] = {}
        self._echoed: set[int] = set()

    def choice(self, index: int, said: Said) -> dict[str, object]:
        """Text, and scores if they were asked for."""
        assert said.end is not None, "whole answers have ended"
        scores: list[TokenScore | int] = []
        text = said.text
        if self._echoes:
            text = self._prompt_text(index) + text
            scores = self._prompt_scores(index, said.prompt)
        heard: tuple[TokenGenerated | Finished, ...] = (*said.tokens, said.end)
        scores += [event.score for event in heard if event.score is not None]
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(index, scores),
            "finish_reason": said.end.reason.value,
        }

    def events(self, index: int, event: ReplyEvent) -> Iterator[str]:
        """The prompt if it is echoed, then tokens, then the reason of the end."""
        if self._echoes and index not in self._echoed:
            self._echoed.add(index)
            prompt = event if isinstance(event, PromptScored) else None
            scores = self._prompt_scores(index, prompt)
            yield self._chunk(index, self._prompt_text(index), scores, None)
        if isinstance(event, PromptScored):
            return
        scored: list[TokenScore | int] = [] if event.score is None else [event.score]
        reason = event.reason.value if isinstance(event, Finished) else None
        yield self._chunk(index, event.text, scored, reason)

    def _chunk(
        self, index: int, text: str, scores: list[TokenScore | int], reason: str | None
    ) -> str:
        logprobs = self._logprobs(index, scores) if scores else None
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return self.chunk([choice])

    def _prompt_text(self, index: int) -> str:
        ids = self._chorus.replies[index].request.prompt_ids
        contents = prompt_utf8(self._tokenizer, ids)
        self._prompts[index] = collections.deque(contents)
        return b"".join(contents).decode(errors="replace")

    def _prompt_scores(self, index: int, prompt: PromptScored | None) -> list[TokenScore | int]:
        """Scores of the prompt's tokens; of the first its id alone, since nothing precedes it."""
        if prompt is None:
            return []
        return [self._chorus.replies[index].request.prompt_ids[0], *prompt.scores]

    def _logprobs(self, index: int, scores: list[TokenScore | int]) -> dict[str, Any] | None:
        """Lists of an entry a token; a bare id has no score."""
        num_top = self._chorus.replies[index].request.logprobs
        if num_top is None:
            return None
        said: dict[str, list[Any]] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for score in scores:
            token_id = score if isinstance(score, int) else score.token_id
            echoed = self._prompts.get(index)
            content = echoed.popleft() if echoed else utf8(self._tokenizer, token_id)
            # A token that begins a text has no bytes in it, and is spelled out all the same.
            text = text_of(content) if content else token_text(self._tokenizer, token_id)
            said["tokens"].append(text)
            said["token_logprobs"].append(None if isinstance(score, int) else score.logprob)
            said["top_logprobs"].append(None if isinstance(score, int) else self._top(score))
            said["text_offset"].append(self._offsets[index].add(content))
        return said if num_top else said | {"top_logprobs": None}

    def _top(self, score: TokenScore) -> dict[str, float]:
        """The likeliest tokens, and the chosen one whether or not it is among them."""
        top = {token_text(self._tokenizer, token_id): logprob for token_id, logprob in score.top}
        return top | {token_text(self._tokenizer, score.token_id): score.logprob}


class ChatVoice(OpenAIVoice):
    """``chat.completion`` objects and their chunks."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, chorus: Chorus, body: ChatRequest) -> None:
        super().__init__(chorus, body)
        self._scores = body.logprobs
        self._begun: set[int] = set()

    def choice(self, index: int, said: Said) -> dict[str, object]:
        """A message, and scores if they were asked for."""
        assert said.end is not None, "whole answers have ended"
        return {
            "index": index,
            "message": {"role": "assistant", "content": said.text, "refusal": None},
            "logprobs": self._logprobs([token.score for token in said.tokens]),
            "finish_reason": said.end.reason.value,
        }

    def events(self, index: int, event: ReplyEvent) -> Iterator[str]:
        """The role, then tokens, then the reason of the end."""
        if index not in self._begun:
            self._begun.add(index)
            yield self._chunk(index, {"role": "assistant", "content": ""}, [], None)
        match event:
            case TokenGenerated():
                yield self._chunk(index, {"content": event.text}, [event.score], None)
            case Finished():
                delta = {"content": event.text} if event.text else {}
                yield self._chunk(index, delta, [], event.reason.value)
            case PromptScored():
                return

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
        scores: list[TokenScore | None],
        reason: str | None,
    ) -> str:
        logprobs = self._logprobs(scores) if scores else None
        return self.chunk(
            [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}]
        )

    def _logprobs(self, scores: list[TokenScore | None]) -> dict[str, object] | None:
        if not self._scores:
            return None
        content = [
            self._entry(score.token_id, score.logprob)
            | {"top_logprobs": [self._entry(*top) for top in score.top]}
            for score in scores
            if score is not None
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token_id: int, logprob: float) -> dict[str, object]:
        return {
            "token": token_text(self._tokenizer, token_id),
            "logprob": logprob,
            "bytes": list(utf8(self._tokenizer, token_id)),
        }

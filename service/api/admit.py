"""From what is asked for to replies that are under way, or the reason why not.

Everything that can be known before the first token is decided here, so that it gets its own
status and never becomes an error inside a 200.
"""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import secrets
from typing import Any

from lm.chat import chat_prompt
from lm.sampling import MAX_SEED, SamplingParams
from lm.sampling_defaults import sampling_defaults
from service.api.arrival import Arrival
from service.api.ask import Ask, Chat, Prompt
from service.api.chorus import Chorus, open_all
from service.api.limits import check_context
from service.engine.request import GenerationRequest
from service.engine.served import ModelCard
from service.errors import InvalidRequest
from service.front import Front

INLINE_ENCODE_CHARACTERS = 8192
"""Longer prompts are tokenized in a thread, so that they hold nobody else up."""

logger = logging.getLogger(__name__)


async def admit(runtime: Front, ask: Ask, arrival: Arrival) -> Chorus:
    """Validate against the model, check the limits and submit.

    Raises the ``ServiceError`` that says why a request is not accepted.
    """
    runtime.admission.check(arrival.client)
    deadline = arrival.at + runtime.settings.request_timeout_s
    model = await runtime.model_named(ask.model, deadline, arrival.party)
    requests = [
        request
        for prompt in ask.prompts
        for request in await _requests(runtime, model, ask, prompt, arrival)
    ]
    if runtime.settings.log_prompts:
        fields = {"id": arrival.request_id, "prompts": list(map(str, ask.prompts))}
        logger.info("request asks", extra={"fields": fields})
    switchboard = runtime.switchboard
    chorus = open_all(switchboard, runtime.worker, model, requests, arrival, n=ask.n)
    with contextlib.ExitStack() as opened:
        opened.enter_context(chorus)
        await runtime.accepted(chorus.replies)
        opened.pop_all()
    return chorus


async def prompt_ids_of(model: ModelCard, prompt: Prompt) -> tuple[int, ...]:
    """Token ids of a prompt; an empty text begins a new one where the model has a token for it.

    Raises ``InvalidRequest`` for messages that the chat template refuses, and for unknown ids.
    """
    tokenizer, encode = model.tokenizer, model.tokenizer.encode
    if isinstance(prompt, tuple):
        check_token_ids(model, "prompt", prompt)
        return prompt
    if isinstance(prompt, Chat):
        try:
            prompt = await asyncio.to_thread(chat_prompt, tokenizer, prompt.messages)
        except ValueError as error:
            raise InvalidRequest(f"messages: {error}", param="messages") from error
        if tokenizer.chat_template is not None:  # which writes what begins a text, or does not
            encode = functools.partial(encode, add_special_tokens=False)
    if not prompt and tokenizer.bos_token_id is not None:
        return (tokenizer.bos_token_id,)
    if len(prompt) <= INLINE_ENCODE_CHARACTERS:
        return tuple(encode(prompt))
    return tuple(await asyncio.to_thread(encode, prompt))


def with_defaults(runtime: Front, model: ModelCard, ask: Ask) -> SamplingParams:
    """How tokens are chosen: as the request says, else as the model's makers do."""
    if runtime.settings.sampling_defaults == "none" or not ask.unsaid:
        return ask.sampling
    defaults = sampling_defaults(model.tokenizer.generation)
    said: dict[str, Any] = {k: value for k, value in defaults.items() if k in ask.unsaid}
    return dataclasses.replace(ask.sampling, **said)


def check_token_ids(model: ModelCard, param: str, token_ids: tuple[int, ...]) -> None:
    """Raise ``InvalidRequest`` for ids that the model does not know."""
    num_ids = model.tokenizer.num_ids
    if max(token_ids, default=0) >= num_ids:
        raise InvalidRequest(
            f"{param}: {max(token_ids)} is no token; ids are below {num_ids}", param=param
        )


async def _requests(
    runtime: Front, model: ModelCard, ask: Ask, prompt: Prompt, arrival: Arrival
) -> list[GenerationRequest]:
    """The engine's requests for all answers to one prompt."""
    prompt_ids = await prompt_ids_of(model, prompt)
    max_new_tokens = ask.max_new_tokens
    if max_new_tokens is None:
        max_new_tokens = max(model.max_model_tokens - len(prompt_ids), 1)
    check_context(len(prompt_ids), max_new_tokens, model.max_model_tokens, ask.output_field)
    if ask.min_new_tokens > max_new_tokens:
        raise InvalidRequest(
            f"min_tokens {ask.min_new_tokens} exceed {ask.output_field} {max_new_tokens}",
            param="min_tokens",
        )
    check_token_ids(model, "logit_bias", tuple(token for token, _ in ask.sampling.logit_bias))
    check_token_ids(model, "stop_token_ids", ask.stop_token_ids)
    if ask.grammar is not None:
        await runtime.check_grammar(model, ask.grammar)
    sampling = with_defaults(runtime, model, ask)
    seed = secrets.randbelow(MAX_SEED) if ask.seed is None else ask.seed
    return [
        GenerationRequest(
            request_id=runtime.switchboard.own_id(arrival.request_id),
            prompt_ids=prompt_ids,
            max_new_tokens=max_new_tokens,
            min_new_tokens=ask.min_new_tokens,
            ignore_eos=ask.ignore_eos,
            sampling=dataclasses.replace(sampling, seed=(seed + index) % (MAX_SEED + 1)),
            stop=ask.stop,
            stop_token_ids=ask.stop_token_ids,
            include_stop=ask.include_stop,
            logprobs=ask.logprobs,
            prompt_logprobs=ask.prompt_logprobs,
            grammar=ask.grammar,
            client=arrival.party,
            deadline=arrival.at + runtime.settings.request_timeout_s,
        )
        for index in range(ask.n)
    ]

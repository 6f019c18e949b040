"""From what is asked for to replies that are under way, or the reason why not.

Everything that can be known before the first token is decided here, so that it gets its own
status and never becomes an error inside a 200.
"""

import asyncio
import contextlib
import dataclasses
import logging
import secrets
from typing import Any

from lm.sampling import MAX_SEED, SamplingParams
from lm.sampling_defaults import sampling_defaults
from service.engine.request import GenerationRequest
from service.engine.served_model import ModelCard
from service.engine.structure.constraint import Prepared
from service.errors import DeadlineExceeded, InvalidRequest
from service.excerpts import excerpt
from service.front import Front
from service.http.answering.prompts import check_token_ids, prompts_ids
from service.requests.limits import check_context
from service.requests.reply_group import Chorus, open_all
from service.requests.request_start import Arrival
from service.requests.spec import Ask
from service.settings.schema import Settings

logger = logging.getLogger(__name__)


async def admit(runtime: Front, ask: Ask, arrival: Arrival) -> Chorus:
    """Validate against the model, check the limits and submit.

    Raises the ``ServiceError`` that says why a request is not accepted.
    """
    check_answers(runtime.settings, ask)
    runtime.admission.check(arrival.client, num_requests=len(ask.prompts) * ask.n)
    deadline = arrival.at + runtime.settings.request_timeout_s
    try:
        async with asyncio.timeout(deadline - runtime.clock()):
            model = await runtime.model_named(ask.model, deadline, arrival.party)
            requests = await _requests(runtime, model, ask, arrival)
    except TimeoutError as error:
        raise DeadlineExceeded("reading it took longer than a request may") from error
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


def check_answers(settings: Settings, ask: Ask) -> None:
    """Raise ``InvalidRequest`` for more answers than can be open at once, before any is made.

    An HTTP process beside an engine's does not know what is open; it knows what can be.
    """
    number = len(ask.prompts) * ask.n
    most = settings.slots + settings.max_waiting_requests
    most = min(most, settings.max_requests_per_key or most)
    if number > most:
        param = "n" if ask.n > 1 else "prompt"
        raise InvalidRequest(
            f"{param}: {len(ask.prompts)} prompts with {ask.n} answers each are {number} answers "
            f"at once; there can be {most}",
            param=param,
        )


def with_defaults(runtime: Front, model: ModelCard, ask: Ask) -> SamplingParams:
    """How tokens are chosen: as the request says, else as the model's makers do."""
    if runtime.settings.sampling_defaults == "none" or not ask.unsaid:
        return ask.sampling
    defaults = sampling_defaults(model.tokenizer.generation)
    said: dict[str, Any] = {k: value for k, value in defaults.items() if k in ask.unsaid}
    return dataclasses.replace(ask.sampling, **said)


async def _requests(
    runtime: Front, model: ModelCard, ask: Ask, arrival: Arrival
) -> list[GenerationRequest]:
    """The engine's requests for all answers to all prompts."""
    check_token_ids(model, "logit_bias", tuple(token for token, _ in ask.sampling.logit_bias))
    check_token_ids(model, "stop_token_ids", ask.stop_token_ids)
    prompts = await prompts_ids(runtime, model, ask.prompts, arrival)
    most_new = [_max_new_tokens(model, ask, len(prompt_ids)) for prompt_ids in prompts]
    prepared = None
    if ask.grammar is not None:
        prepared = await runtime.check_grammar(model, ask.grammar, arrival.party)
    sampling = with_defaults(runtime, model, ask)
    return [
        request
        for prompt_ids, max_new_tokens in zip(prompts, most_new, strict=True)
        for request in _answers(
            runtime,
            ask,
            arrival,
            sampling,
            prompt_ids=prompt_ids,
            max_new_tokens=max_new_tokens,
            prepared=prepared,
        )
    ]


def _max_new_tokens(model: ModelCard, ask: Ask, num_prompt_tokens: int) -> int:
    """Most tokens of each answer to a prompt; raises unless both fit the model."""
    max_new_tokens = ask.max_new_tokens
    if max_new_tokens is None:
        max_new_tokens = max(model.max_model_tokens - num_prompt_tokens, 1)
    check_context(num_prompt_tokens, max_new_tokens, model.max_model_tokens, ask.output_field)
    if ask.min_new_tokens > max_new_tokens:
        raise InvalidRequest(
            f"min_tokens {excerpt(ask.min_new_tokens)} exceed "
            f"{ask.output_field} {excerpt(max_new_tokens)}",
            param="min_tokens",
        )
    return max_new_tokens


def _answers(
    runtime: Front,
    ask: Ask,
    arrival: Arrival,
    sampling: SamplingParams,
    *,
    prompt_ids: tuple[int, ...],
    max_new_tokens: int,
    prepared: Prepared | None,
) -> list[GenerationRequest]:
    """The engine's requests for all answers to one prompt."""
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
            prepared=prepared,
            client=arrival.party,
            deadline=arrival.at + runtime.settings.request_timeout_s,
        )
        for index in range(ask.n)
    ]

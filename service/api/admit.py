"""From a request's body to a reply that is under way, or the reason why not.

Everything that can be known before the first token is decided here, so that it gets its own
status and never becomes an error inside a 200.
"""

import asyncio
import logging

from service.api.arrival import Arrival
from service.api.limits import check_context
from service.api.replies import Reply
from service.api.schemas import GenerateRequest
from service.engine.request import GenerationRequest
from service.engine.served import ServedModel
from service.errors import ServiceError
from service.runtime import Runtime

INLINE_ENCODE_CHARACTERS = 8192
"""Longer prompts are tokenized in a thread, so that they hold nobody else up."""

logger = logging.getLogger(__name__)


async def admit(runtime: Runtime, body: GenerateRequest, arrival: Arrival) -> Reply:
    """Validate against the model, check the limits and submit.

    Raises the ``ServiceError`` that says why a request is not accepted, and counts and
    logs it.
    """
    try:
        runtime.admission.check(arrival.client)
        deadline = arrival.at + runtime.settings.request_timeout_s
        model = await runtime.model_named(body.model, deadline)
        prompt_ids = await _encode(model, body.prompt)
        check_context(len(prompt_ids), body.max_new_tokens, model.max_model_tokens)
        request = GenerationRequest(
            request_id=runtime.switchboard.own_id(arrival.request_id),
            prompt_ids=tuple(prompt_ids),
            max_new_tokens=body.max_new_tokens,
            sampling=body.sampling(),
            stop=tuple(body.stop),
            deadline=deadline,
        )
        if runtime.settings.log_prompts:
            fields = {"id": arrival.request_id, "prompt": body.prompt}
            logger.info("request asks", extra={"fields": fields})
        return runtime.switchboard.open(runtime.worker, model, request, arrival)
    except ServiceError as error:
        runtime.metrics.requests.on_refused(error.code)
        fields = {
            "id": arrival.request_id,
            "route": arrival.route,
            "reason": error.code,
            "error": error.message,
        }
        logger.info("request refused", extra={"fields": fields})
        raise


async def _encode(model: ServedModel, prompt: str) -> list[int]:
    """Token ids of a prompt; an empty one begins a new text where the model has a token for it."""
    if not prompt and model.tokenizer.bos_token_id is not None:
        return [model.tokenizer.bos_token_id]
    if len(prompt) <= INLINE_ENCODE_CHARACTERS:
        return model.tokenizer.encode(prompt)
    return await asyncio.to_thread(model.tokenizer.encode, prompt)

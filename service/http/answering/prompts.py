"""From prompts of any form to token ids: at a bounded cost, and much of it beside the loop.

The tokenizers' library holds the interpreter's lock while it reads one text and lets it go while it
reads a batch: long texts go to a lane as batches of one.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lm.panics import LibraryPanic
from lm.text.chat import chat_prompt
from service.engine.served_model import ModelCard
from service.errors import ContextExceeded, InvalidRequest
from service.excerpts import excerpt
from service.front import Front
from service.requests.request_start import Arrival
from service.requests.spec import Chat, Prompt

INLINE_CHARACTERS = 1024
"""Of a request's prompts together: about a millisecond's work. A chat's template takes more."""
SHORT_CHARACTERS = 1 << 15
"""More wait for each other, so that shorter ones need not wait for them."""
MAX_WORD_CHARACTERS = 1 << 17
"""Without white space between: a tokenizer that cuts nowhere else looks at a word as a whole."""
BYTES_A_CHARACTER = 4
"""At most, in UTF-8."""
_WORD = re.compile(r"\S+")


async def prompts_ids(
    front: Front, model: ModelCard, prompts: Sequence[Prompt], arrival: Arrival
) -> list[tuple[int, ...]]:
    """Token ids of prompts; an empty text begins a new one where the model has a token for it.

    Raises ``InvalidRequest`` for messages that the chat template refuses, for unknown ids and for
    a text that the tokenizer cannot read, and ``ContextExceeded`` for a text too long to fit.
    """
    try:
        size = sum(_checked_size(model, prompt) for prompt in prompts)
        if size <= INLINE_CHARACTERS:
            return [_ids(model, prompt) for prompt in prompts]
        lane = front.short_lane if size <= SHORT_CHARACTERS else front.long_lane
        return await lane.do(
            arrival.party, lambda: [_ids(model, prompt, aside=True) for prompt in prompts]
        )
    except LibraryPanic as error:
        param = "messages" if isinstance(prompts[0], Chat) else "prompt"
        raise InvalidRequest(f"{param}: {error}", param=param) from error


def check_token_ids(model: ModelCard, param: str, token_ids: Sequence[int]) -> None:
    """Raise ``InvalidRequest`` for ids that the model does not know."""
    num_ids = model.tokenizer.num_ids
    if max(token_ids, default=0) >= num_ids:
        raise InvalidRequest(
            f"{param}: {max(token_ids)} is no token; ids are below {num_ids}", param=param
        )


def check_length(model: ModelCard, text: str, param: str) -> None:
    """Raise ``ContextExceeded`` for a text that cannot fit, whatever its tokens are."""
    if len(text) * BYTES_A_CHARACTER <= model.max_model_tokens:
        return
    least = model.tokenizer.token_bytes.least_tokens(text)
    if least > model.max_model_tokens:
        raise ContextExceeded(
            f"the prompt has at least {least} tokens, "
            f"the model takes at most {model.max_model_tokens - 1}",
            param=param,
        )
    if len(text) > MAX_WORD_CHARACTERS:
        longest = max((len(word[0]) for word in _WORD.finditer(text)), default=0)
        if longest > MAX_WORD_CHARACTERS:
            raise InvalidRequest(
                f"{param}: {longest} characters without white space; there may be "
                f"{MAX_WORD_CHARACTERS}",
                param=param,
            )


def _checked_size(model: ModelCard, prompt: Prompt) -> int:
    """Characters to work on; raises for a prompt of which it is known already that it cannot be."""
    match prompt:
        case str():
            check_length(model, prompt, "prompt")
            return len(prompt)
        case Chat(messages=messages):
            if len(messages) > model.max_model_tokens:
                raise ContextExceeded(
                    f"there are {len(messages)} messages, "
                    f"the model takes at most {model.max_model_tokens} tokens",
                    param="messages",
                )
            return INLINE_CHARACTERS + sum(map(_characters, messages))
        case tuple():
            check_token_ids(model, "prompt", prompt)
            return 0


def _characters(message: Mapping[str, Any]) -> int:
    return 1 + sum(len(one) for one in message.values() if isinstance(one, str))


def _ids(model: ModelCard, prompt: Prompt, *, aside: bool = False) -> tuple[int, ...]:
    tokenizer, param, is_templated = model.tokenizer, "prompt", False
    if isinstance(prompt, tuple):
        return prompt
    if isinstance(prompt, Chat):
        param, is_templated = "messages", tokenizer.chat_template is not None
        try:
            prompt = chat_prompt(tokenizer, prompt.messages)
        except ValueError as error:
            raise InvalidRequest(f"messages: {excerpt(error)}", param=param) from error
        check_length(model, prompt, param)
    if not prompt and tokenizer.bos_token_id is not None:
        return (tokenizer.bos_token_id,)
    encode = tokenizer.encode_aside if aside else tokenizer.encode
    # a template writes what begins a text, or does not
    return tuple(encode(prompt, add_special_tokens=not is_templated))

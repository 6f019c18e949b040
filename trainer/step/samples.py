"""Texts that show what a run has learnt so far, by the slow reference generator.

A sample depends on the weights and on (seed, step, index of the prompt), so a resumed run writes
the very texts that an uninterrupted one would have written.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from lm.generate import generate
from lm.model.decoder import Decoder
from lm.sampling import SamplingParams
from lm.text.tokenizer import Tokenizer

TEMPERATURE = 0.8
TOP_K = 50


@dataclasses.dataclass(frozen=True)
class Sample:
    """A prompt and what the model made of it."""

    prompt: str
    text: str
    """The continuation alone."""


def sample_texts(
    decoder: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    seed: int,
    poll: Callable[[], None],
) -> Iterator[Sample]:
    """One sample a prompt; leaves the decoder in eval mode.

    A prompt longer than the context is cut to its end. ``poll`` is called at every token and may
    raise to stop.
    """
    for index, prompt in enumerate(prompts):
        prompt_ids = tokenizer.encode(prompt)[-(decoder.config.max_position_embeddings - 1) :]
        params = SamplingParams(temperature=TEMPERATURE, top_k=TOP_K, seed=seed + index)
        token_ids = []
        for token_id in generate(
            decoder,
            prompt_ids,
            params,
            max_new_tokens=max_new_tokens,
            eos_token_ids=tokenizer.eos_token_ids,
        ):
            poll()
            token_ids.append(token_id)
        text = tokenizer.decode([*prompt_ids, *token_ids])
        yield Sample(prompt, text.removeprefix(tokenizer.decode(prompt_ids)))

"""The slow reference generator: the whole sequence through the decoder for every token.

Obvious on purpose. The trainer samples with it, and the service's engine must equal it token
for token whatever shares its batch.
"""

from collections.abc import Collection, Iterator, Sequence

import torch

from lm.model.decoder import Decoder
from lm.sampling import SamplingParams, adjusted_logits, sample


@torch.inference_mode()
def generate(
    decoder: Decoder,
    prompt_ids: Sequence[int],
    params: SamplingParams,
    *,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    eos_token_ids: Collection[int] = (),
) -> Iterator[int]:
    """Yield new token ids until an end token (not yielded), the limit or the context's end.

    No end token is chosen before there are ``min_new_tokens``. Raises ``ValueError`` for a prompt
    that is empty or fills the context.
    """
    context = decoder.config.max_position_embeddings
    if not 0 < len(prompt_ids) < context:
        raise ValueError(f"prompt of {len(prompt_ids)} tokens; the model takes 1 to {context - 1}")
    decoder.eval()
    device = next(decoder.parameters()).device
    token_ids = list(prompt_ids)
    for index in range(min(max_new_tokens, context - len(prompt_ids))):
        logits = decoder(torch.tensor([token_ids], device=device))[0, -1]
        banned_ids = tuple(eos_token_ids) if index < min_new_tokens else ()
        if params.adjusts_logits or banned_ids:
            output_ids = token_ids[len(prompt_ids) :]
            logits = adjusted_logits(logits, params, prompt_ids, output_ids, banned_ids)
        token_id = sample(logits, params, index)
        if token_id in eos_token_ids:
            return
        yield token_id
        token_ids.append(token_id)

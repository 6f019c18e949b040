"""Decides whether a loaded checkpoint may be served. Refuses with a reason, never repairs."""

import torch

from lm.decoder import Decoder
from lm.tokenizer import Tokenizer

PROBE_TOKENS = 16
"""Length of the probe prompt."""


class CheckpointRefused(ValueError):
    """A checkpoint must not be served; ``reason`` is one word for metrics and lists."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def check_tokenizer(decoder: Decoder, tokenizer: Tokenizer, fingerprint: str) -> None:
    """Refuse a tokenizer that the model was not trained with."""
    if tokenizer.fingerprint != fingerprint:
        raise CheckpointRefused("tokenizer", "tokenizer.json is not the one of the manifest")
    if tokenizer.vocab_size > decoder.config.vocab_size:
        raise CheckpointRefused(
            "tokenizer",
            f"the tokenizer has {tokenizer.vocab_size} ids, the model {decoder.config.vocab_size}",
        )


@torch.inference_mode()
def check_numbers(decoder: Decoder) -> None:
    """Refuse weights or probe logits that are not finite."""
    for name, weight in decoder.named_parameters():
        if not bool(weight.isfinite().all()):
            raise CheckpointRefused("weights_not_finite", f"{name} has values that are not finite")
    config = decoder.config
    length = min(PROBE_TOKENS, config.max_position_embeddings)
    device = decoder.lm_head.weight.device
    probe = torch.arange(length, device=device)[None] % config.vocab_size
    if not bool(decoder(probe).isfinite().all()):
        raise CheckpointRefused("logits_not_finite", "probe logits are not finite")

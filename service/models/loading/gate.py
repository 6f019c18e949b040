"""Decides whether a loaded checkpoint may be served. Refuses with a reason, never repairs.

What is broken is refused to everybody: ``check_tokenizer``, ``check_weights`` and ``check_logits``
run at every load. What is merely worse, by a policy that is off unless it is set, must not take
over by itself: a ``Gate`` judges what would replace the served model. Who asks for a step by name
gets it.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import torch

from lm.model.config import ModelConfig
from lm.safetensors_file import Piece
from lm.sampling_defaults import sampling_defaults
from lm.text.tokenizer import Tokenizer
from lm.volume import Step
from service.engine.pytorch.runner import StepRunner
from service.engine.served_model import ServedModel
from service.models.loading.quality_probe import PROBE_TEXT, probe_ids
from service.models.refused import CheckpointRefused

PROBE_TOKENS = 16
"""Length of each probe prompt."""
POLICY_REASONS = {"memorising", "regression", "degenerate"}
"""Refused by a ``Gate``: must not take over by itself, can be asked for by name."""
MEMORISING = "memorising"
"""Flag of a manifest whose trainer saw validation rise while training fell."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """What a checkpoint must be, beyond whole and finite, to take over by itself."""

    max_bpb_regression: float | None = None
    """Bits per byte on the probe text by which it may be worse than the served one."""
    refuse_memorising: bool = False
    refuse_degenerate: bool = False

    def check_claims(self, step: Step) -> None:
        """Refuse what the manifest alone gives away, before anything is read."""
        if self.refuse_memorising and MEMORISING in step.manifest.details.flags:
            raise CheckpointRefused(MEMORISING, "the trainer flagged the step as memorising")

    def check_behaviour(self, model: ServedModel, served: ServedModel | None) -> None:
        """Refuse a loaded model that is worse than the served one, or babbles."""
        self._check_regression(model, served)
        if self.refuse_degenerate and model.is_degenerate:
            raise CheckpointRefused("degenerate", "its greedy text of the probe is empty or a loop")

    def _check_regression(self, model: ServedModel, served: ServedModel | None) -> None:
        if served is None or self.max_bpb_regression is None:
            return
        new, old = model.bits_per_byte, served.bits_per_byte
        assert new is not None, "the loader measures where the gate compares"
        assert old is not None, "the loader measures where the gate compares"
        if new > old + self.max_bpb_regression:
            raise CheckpointRefused(
                "regression",
                f"{new:.4f} bits per byte on the probe text, {served.checkpoint.name} has "
                f"{old:.4f} and the setting allows {self.max_bpb_regression} more",
            )


def check_tokenizer(config: ModelConfig, tokenizer: Tokenizer, fingerprint: str) -> None:
    """Refuse a tokenizer that the model was not trained with."""
    if tokenizer.fingerprint != fingerprint:
        raise CheckpointRefused("tokenizer", "tokenizer.json is not the one of the manifest")
    if tokenizer.num_ids > config.vocab_size:
        raise CheckpointRefused(
            "tokenizer",
            f"the tokenizer has {tokenizer.num_ids} ids, the model {config.vocab_size}",
        )
    ends = [one for one in (*tokenizer.eos_token_ids, tokenizer.bos_token_id) if one is not None]
    if max(ends, default=0) >= config.vocab_size or min(ends, default=0) < 0:
        raise CheckpointRefused(
            "tokenizer",
            f"texts begin or end with token {max(ends)}, the model has {config.vocab_size}",
        )


def check_sampling(tokenizer: Tokenizer) -> None:
    """Refuse sampling defaults that no request could ask for."""
    try:
        sampling_defaults(tokenizer.generation)
    except ValueError as error:
        raise CheckpointRefused("generation_config", str(error)) from error


def check_weights(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Pass weights on; once all are through and so verified, refuse what is not finite."""
    bad = None
    for piece in pieces:
        if piece.rows.numel() and not all(end.isfinite() for end in torch.aminmax(piece.rows)):
            bad = bad or piece.name
        yield piece
    if bad is not None:
        raise CheckpointRefused("weights_not_finite", f"{bad} has values that are not finite")


def check_logits(runner: StepRunner, tokenizer: Tokenizer) -> None:
    """Refuse logits that are not finite, after ids in order and after the beginning of a text."""
    length = min(PROBE_TOKENS, runner.cache.max_tokens)
    ascending = [token_id % runner.config.vocab_size for token_id in range(length)]
    for probe in (ascending, probe_ids(tokenizer, PROBE_TEXT, length)):
        if not bool(runner.score(probe).isfinite().all()):
            raise CheckpointRefused("logits_not_finite", "probe logits are not finite")

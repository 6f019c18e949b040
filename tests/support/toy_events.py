"""Events of a run that never was, any of their fields replaced."""

import dataclasses
from typing import Any

from trainer.report.events import Evaluated, Trained


def trained(step: int, **changes: Any) -> Trained:
    """A logged step: two seconds and 128 tokens after the one before."""
    event = Trained(
        step=step,
        loss=5.0 - step / 10,
        loss_average=5.0,
        learning_rate=1e-3,
        gradient_norm=1.5,
        tokens_seen=128 * step,
        tokens_per_s=64.0,
        share_of_peak=0.5,
        train_seconds=2.0 * step,
        skipped_steps=0,
        resident_bytes=3 * 2**29,
        gpu_bytes=None,
    )
    return dataclasses.replace(event, **changes)


def evaluated(step: int, **changes: Any) -> Evaluated:
    """A measurement at a step."""
    event = Evaluated(
        step=step,
        validation_loss=4.8,
        bits_per_byte=2.9,
        gap=-0.2,
        validation_tokens=512,
        memorising=False,
        best_step=step,
        best_validation_loss=4.8,
        tokens_seen=128 * step,
        train_seconds=2.0 * step,
        seconds=0.5,
    )
    return dataclasses.replace(event, **changes)

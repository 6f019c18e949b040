"""Whether a run learns its text by heart: held-out loss rises while training loss falls.

A pure decision over evaluations; what it has to remember between two of them is in
``trainer.step.counters.Counters``, so a resumed run goes on judging where the stopped one was.
"""

FLAG = "memorising"
"""What the manifest of a step says while it holds."""
MARGIN = 0.02
"""Held-out loss this far over its best, as a share of the best, is a rise and not noise."""
PATIENCE = 3
"""Evaluations in a row that have to show it."""


def shows_memorising(
    loss: float, average: float | None, *, best_loss: float, average_at_best: float | None
) -> bool:
    """Whether one evaluation shows it, by comparison with the best one before.

    Args:
        loss: held-out loss, nats a token, over the same text every time.
        average: running average of the training loss, nats a token; ``None`` before any.
        best_loss: the lowest held-out loss so far.
        average_at_best: the training average at that evaluation.

    """
    if average is None or average_at_best is None:
        return False
    return loss > (1 + MARGIN) * best_loss and average < average_at_best

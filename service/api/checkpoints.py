"""``GET /checkpoints``: what the volume holds, what is served, and why something was refused."""

from typing import Literal

from fastapi import APIRouter

from lm.volume import Step
from service.api.dependencies import RuntimeDep
from service.api.schemas import CheckpointList, CheckpointStatus
from service.watcher import CheckpointWatcher, Refusal

router = APIRouter(tags=["operations"])


@router.get("/checkpoints")
def checkpoints(runtime: RuntimeDep) -> CheckpointList:
    """List the steps of the followed run, ascending: complete ones, and why others are refused."""
    watcher = runtime.watcher
    steps = watcher.steps()
    complete = {step.number for step in steps}
    listed = [_status(watcher, step) for step in steps] + [
        _unreadable(watcher, number, refusal)
        for number, refusal in watcher.refusals.items()
        if number not in complete
    ]
    return CheckpointList(run=watcher.run, checkpoints=sorted(listed, key=lambda one: one.step))


def _status(watcher: CheckpointWatcher, step: Step) -> CheckpointStatus:
    served = watcher.served
    refusal = watcher.refusals.get(step.number)
    status: Literal["served", "available", "refused"] = "available"
    if refusal is not None:
        status = "refused"
    if served is not None and served.fingerprint == step.manifest.fingerprint:
        status = "served"
    return CheckpointStatus(
        name=step.name,
        step=step.number,
        created_at=step.manifest.created_at,
        metrics=dict(step.manifest.details.metrics),
        status=status,
        reason=None if refusal is None else refusal.reason,
        message=None if refusal is None else refusal.message,
    )


def _unreadable(watcher: CheckpointWatcher, number: int, refusal: Refusal) -> CheckpointStatus:
    """A step of which nothing is known but why it is refused."""
    return CheckpointStatus(
        name=f"{watcher.run}@{number}",
        step=number,
        created_at=None,
        metrics={},
        status="refused",
        reason=refusal.reason,
        message=refusal.message,
    )

"""``GET /checkpoints``: what the volume holds, what is served, and why something was refused."""

from typing import Literal

from fastapi import APIRouter

from lm.volume import Step
from service.api.dependencies import RuntimeDep
from service.api.schemas import CheckpointList, CheckpointStatus
from service.watcher import CheckpointWatcher

router = APIRouter(tags=["operations"])


@router.get("/checkpoints")
def checkpoints(runtime: RuntimeDep) -> CheckpointList:
    """List the complete steps of the followed run, ascending."""
    watcher = runtime.watcher
    return CheckpointList(
        run=watcher.run, checkpoints=[_status(watcher, step) for step in watcher.steps()]
    )


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

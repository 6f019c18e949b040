"""Routes for checkpoints: what there is, what is served, why something is not, and pins."""

import asyncio
import dataclasses
from typing import Any

from fastapi import APIRouter, Response

from lm.volume import Step
from service.engine.served_model import ServedModel
from service.errors import InvalidRequest
from service.http.answering.bodies import BoundedRoute
from service.http.dependencies import RuntimeDep
from service.http.middleware.admin_key import AdminDep
from service.http.protocols.nestling.schemas import (
    CheckpointList,
    CheckpointName,
    CheckpointStatus,
    ReloadRequest,
    ReloadResponse,
)
from service.http.schema import ErrorBody
from service.models.rejections import Refusal
from service.models.run_survey import Survey
from service.runtime import Runtime

router = APIRouter(tags=["operations"], route_class=BoundedRoute)

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (401, 403, 404, 422, 503, 504)
}


@router.get("/checkpoints", response_model=CheckpointList)
async def checkpoints(runtime: RuntimeDep) -> Response:
    """List the steps of every run, ascending: what serves, what could, and why others do not."""
    content = await runtime.reads.read_json(lambda: _list(runtime))
    return Response(content, media_type="application/json")


@router.post("/checkpoints/reload", dependencies=[AdminDep], responses=ERRORS)
async def reload(runtime: RuntimeDep, body: ReloadRequest | None = None) -> ReloadResponse:
    """Hold a step (`model` and `pin`), load one for those who name it, or follow the newest.

    A held step serves until a reload without `model`, also if it is pruned meanwhile; not across
    a restart. Needs the admin key.
    """
    body = body or ReloadRequest()
    deadline = runtime.clock() + runtime.settings.request_timeout_s
    if body.model is None:
        if body.pin:
            raise InvalidRequest("pin needs a model to hold", param="pin")
        await asyncio.wrap_future(runtime.watcher.release())
        loaded = runtime.model()
    elif body.pin:
        steps = await runtime.steps_named(body.model)
        loaded = await asyncio.wrap_future(runtime.watcher.hold(body.model, steps))
    else:
        loaded = await runtime.model_named(body.model, deadline)
    return ReloadResponse(
        served=CheckpointName.of(runtime.model().checkpoint),
        loaded=CheckpointName.of(loaded.checkpoint),
        pinned=runtime.watcher.is_holding,
    )


def _list(runtime: Runtime) -> CheckpointList:
    watcher = runtime.watcher
    current = runtime.worker.current
    problem = watcher.problem
    listed: list[CheckpointStatus] = []
    left_out: dict[str, str] = {}
    try:
        for run, survey in runtime.catalog.surveys():
            listed += _of_run(runtime, run, survey)
        left_out = runtime.catalog.left_out()
    except OSError as error:
        problem = problem or f"cannot read the volume: {error}"
    on_volume = {one.fingerprint for one in listed}
    listed += [
        _in_memory_alone(model, is_served=model is current)
        for model in runtime.residency.models
        if model.checkpoint.fingerprint not in on_volume
    ]
    return CheckpointList(
        run=watcher.run,
        pinned=current.checkpoint.name if watcher.is_holding and current is not None else None,
        problem=problem and runtime.catalog.from_inside(problem),
        left_out=left_out,
        checkpoints=sorted(listed, key=lambda one: (one.run, one.step)),
    )


def _of_run(runtime: Runtime, run: str, survey: Survey) -> list[CheckpointStatus]:
    from_inside = runtime.catalog.from_inside
    refused = {
        n: dataclasses.replace(why, message=from_inside(why.message))
        for (of, n), why in runtime.watcher.refusals.table.items()
        if of == run
    }
    broken = {n: Refusal(why.reason, from_inside(str(why)), ()) for n, why in survey.broken.items()}
    unfinished = {n: refused.get(n) for n in survey.unfinished}
    gone = {n: why for n, why in refused.items() if n not in survey.numbers}
    return [
        *(_complete(runtime, step, refused.get(step.number)) for step in survey.steps),
        *(_nothing_known(run, n, why) for n, why in (unfinished | broken).items()),
        *(_nothing_known(run, n, why, on_volume=False) for n, why in gone.items()),
    ]


def _complete(runtime: Runtime, step: Step, refusal: Refusal | None) -> CheckpointStatus:
    fingerprint = step.manifest.fingerprint
    models = {model.checkpoint.fingerprint: model for model in runtime.residency.models}
    model, current = models.get(fingerprint), runtime.worker.current
    if model is not None:
        status = "served" if model is current else "resident"
    else:
        status = "available" if refusal is None else "refused"
    return CheckpointStatus.model_validate(
        {
            "name": step.name,
            "run": step.manifest.run,
            "step": step.number,
            "fingerprint": fingerprint,
            "created_at": step.manifest.created_at,
            "metrics": dict(step.manifest.details.metrics),
            "flags": list(step.manifest.details.flags),
            "probe_bits_per_byte": None if model is None else model.bits_per_byte,
            "status": status,
            "on_volume": True,
            "reason": None if refusal is None else refusal.reason,
            "message": None if refusal is None else refusal.message,
        }
    )


def _in_memory_alone(model: ServedModel, *, is_served: bool) -> CheckpointStatus:
    """A model whose step was pruned since it was loaded."""
    checkpoint = model.checkpoint
    return CheckpointStatus(
        name=checkpoint.name,
        run=checkpoint.run,
        step=checkpoint.step,
        fingerprint=checkpoint.fingerprint,
        created_at=None,
        metrics={},
        flags=[],
        probe_bits_per_byte=model.bits_per_byte,
        status="served" if is_served else "resident",
        on_volume=False,
        reason=None,
        message=None,
    )


def _nothing_known(
    run: str, number: int, refusal: Refusal | None, *, on_volume: bool = True
) -> CheckpointStatus:
    """What is no complete step: broken, not finished yet, or gone while it was loaded."""
    return CheckpointStatus(
        name=f"{run}@{number}",
        run=run,
        step=number,
        fingerprint=None,
        created_at=None,
        metrics={},
        flags=[],
        probe_bits_per_byte=None,
        status="incomplete" if refusal is None else "refused",
        on_volume=on_volume,
        reason="incomplete" if refusal is None else refusal.reason,
        message="there is no manifest yet" if refusal is None else refusal.message,
    )

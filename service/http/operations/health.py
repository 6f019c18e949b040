"""Routes for those who watch the service: alive, ready, which version, what numbers."""

from typing import Annotated

import torch
from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse

from service.errors import NotReady
from service.http.dependencies import RuntimeDep
from service.http.protocols.nestling.schemas import CheckpointName, Health, Version
from service.version import version as installed_version

router = APIRouter(tags=["operations"])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", response_model=Health, responses={503: {"model": Health}})
async def healthz(runtime: RuntimeDep) -> Response:
    """Alive: 200 also while no model is served; 503 where only a restart helps."""
    if (reason := runtime.why_broken) is not None:
        return JSONResponse(Health(status="broken", reason=reason).model_dump(), 503)
    return JSONResponse(Health(status="ok").model_dump())


@router.head("/health", include_in_schema=False)
@router.head("/readyz", include_in_schema=False)
@router.get("/health", response_model=Health, responses={503: {"model": Health}})
@router.get("/readyz", response_model=Health, responses={503: {"model": Health}})
async def readyz(runtime: RuntimeDep) -> Response:
    """Ready: 200 while a model serves and requests are accepted, else 503 with the reason.

    `/health` is the same, under the name that clients of other engines ask for.
    """
    reason = None
    checkpoint = None
    try:
        checkpoint = runtime.model().checkpoint.name
    except NotReady as error:
        reason = runtime.catalog.from_inside(error.message)
    if runtime.admission.is_draining:
        reason = "the service is shutting down"
    reason = runtime.why_broken or reason
    status = Health(
        status="ready" if reason is None else "not_ready", reason=reason, checkpoint=checkpoint
    )
    return JSONResponse(status.model_dump(), 200 if reason is None else 503)


@router.head("/version", include_in_schema=False)
@router.get("/version")
async def version(runtime: RuntimeDep) -> Version:
    """What runs here, and which checkpoint it serves."""
    model = runtime.worker.current
    return Version(
        version=installed_version(),
        torch=torch.__version__,
        device=None if model is None else model.device,
        dtype=None if model is None else model.dtype,
        backend=None if model is None else model.backend,
        not_fused=None if model is None else model.not_fused,
        num_slots=None if model is None else model.num_slots,
        checkpoint=None if model is None else CheckpointName.of(model.checkpoint),
    )


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics", response_class=Response)
async def metrics(runtime: RuntimeDep, accept: Annotated[str, Header()] = "") -> Response:
    """Everything measured, in Prometheus' text format or, where it is asked for, OpenMetrics."""
    body, content_type = runtime.metrics.scrape(accept)
    return Response(body, headers={"content-type": content_type})

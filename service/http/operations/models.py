"""``GET /v1/models``: what a request may name, in the shape of OpenAI's API."""

from fastapi import APIRouter, Response

from lm.sampling_defaults import sampling_defaults
from lm.volume import Step
from service.engine.served_model import Checkpoint
from service.errors import UnknownModel
from service.excerpts import excerpt
from service.http.dependencies import RuntimeDep
from service.http.protocols.nestling.schemas import Model, ModelList
from service.http.schema import ErrorBody
from service.models import naming
from service.models.catalog import checkpoint_of, identity
from service.models.loading.gate import POLICY_REASONS
from service.runtime import Runtime

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models", response_model=ModelList)
async def models(runtime: RuntimeDep) -> Response:
    """Every name that `model` may have: runs, their steps, and aliases."""
    content = await runtime.reads.read_json(lambda: _list(runtime))
    return Response(content, media_type="application/json")


@router.get("/models/{name}", responses={404: {"model": ErrorBody}})
async def model(name: str, runtime: RuntimeDep) -> Model:
    """What one name means now; 404 naming what exists if it means nothing."""
    return await runtime.reads.read(lambda: _named(runtime, name))


def _list(runtime: Runtime) -> ModelList:
    return ModelList(data=[_model(runtime, name, one) for name, one in names(runtime).items()])


def _named(runtime: Runtime, name: str) -> Model:
    checkpoint = names(runtime).get(name)
    if checkpoint is None:
        naming.candidates(runtime.catalog, name, runtime.watcher.run)  # raises, or it is there …
        raise UnknownModel(
            f"{excerpt(name)!r} was refused; GET /checkpoints says why", param="model"
        )
    return _model(runtime, name, checkpoint)


def names(runtime: Runtime) -> dict[str, Checkpoint]:
    """Every name with what it means now: on the volume and not refused, or in memory."""
    table = runtime.watcher.refusals.table

    def is_good(step: Step) -> bool:
        refusal = table.get((step.manifest.run, step.number))
        if refusal is None or refusal.reason in POLICY_REASONS:
            return True
        return refusal.identity != identity(step)

    named = naming.names(runtime.catalog, runtime.watcher.run, is_good)
    meant = {name: checkpoint_of(step) for name, step in named.items()}
    meant |= {one.checkpoint.name: one.checkpoint for one in runtime.residency.models}
    current = runtime.worker.current
    if current is not None:
        run = current.checkpoint.run
        followed = (naming.LATEST, run, f"{run}@{naming.LATEST}")
        meant |= dict.fromkeys(followed, current.checkpoint)
    return meant


def _model(runtime: Runtime, name: str, checkpoint: Checkpoint) -> Model:
    return Model(
        id=name,
        created=int(checkpoint.created_at),
        checkpoint=checkpoint.name,
        sampling_defaults=_sampling_defaults(runtime, checkpoint),
    )


def _sampling_defaults(runtime: Runtime, checkpoint: Checkpoint) -> dict[str, int | float] | None:
    """What requests get that say nothing; ``None`` while the checkpoint is not in memory."""
    if runtime.settings.sampling_defaults == "none":
        return {}
    for model in runtime.residency.models:
        if model.checkpoint == checkpoint:
            return sampling_defaults(model.tokenizer.generation)
    return None

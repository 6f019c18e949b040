"""``GET /runs/{run}/history``: how a run's training goes, for pages that draw it."""

from fastapi import APIRouter, Response

from service.errors import UnknownModel
from service.excerpts import excerpt
from service.http.dependencies import RuntimeDep
from service.http.schema import ErrorBody, Schema
from service.runtime import Runtime

router = APIRouter(tags=["operations"])


class TrainingPoint(Schema):
    """Training loss at a step."""

    step: int
    loss: float | None


class EvaluationPoint(TrainingPoint):
    """Held-out loss at a step."""

    bits_per_byte: float | None


class SampledText(Schema):
    """What the trainer had the model write."""

    step: int
    prompt: str
    text: str


class ServedStep(Schema):
    """A checkpoint that took over while this service ran."""

    name: str
    step: int
    at: float


class RunHistory(Schema):
    """Everything by step, ascending."""

    run: str
    training: list[TrainingPoint]
    evaluations: list[EvaluationPoint]
    samples: list[SampledText]
    served: list[ServedStep]


@router.get("/runs/{run}/history", response_model=RunHistory, responses={404: {"model": ErrorBody}})
async def history(run: str, runtime: RuntimeDep) -> Response:
    """Losses and samples from the trainer's journals, and when checkpoints took over."""
    content = await runtime.reads.read_json(lambda: _history(run, runtime))
    return Response(content, media_type="application/json")


def _history(run: str, runtime: Runtime) -> RunHistory:
    if run not in runtime.catalog.runs():
        raise UnknownModel(f"no run {excerpt(run)!r} on the volume", param="run")
    read = runtime.histories.read(runtime.catalog.volume / run)
    return RunHistory(
        run=run,
        training=[TrainingPoint(step=step, loss=loss) for step, loss in read.training],
        evaluations=[
            EvaluationPoint(step=step, loss=loss, bits_per_byte=bits)
            for step, loss, bits in read.evaluations
        ],
        samples=[SampledText(step=s, prompt=prompt, text=t) for s, prompt, t in read.samples],
        served=[
            ServedStep(name=f"{run}@{swap.step}", step=swap.step, at=swap.at)
            for swap in runtime.swaps.of(run)
        ],
    )

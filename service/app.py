"""The FastAPI app of one service. Nothing happens at import: ``create_app(settings)`` makes it."""

import contextlib
import importlib.metadata
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline

from lm.volume import ReadFile, read_plain
from service.api import checkpoints, generate, health, home, models
from service.api.arrival import ArrivalMiddleware
from service.api.body_limit import BodyLimitMiddleware
from service.api.errors import install_error_handlers
from service.runtime import Runtime
from service.settings import Settings
from service.traces import QUIET_ROUTES


def _telemetry(runtime: Runtime) -> TelemetryConfig:
    """FastAPI's spans of requests, where traces go somewhere; ours hang beneath them."""
    traces = runtime.traces
    return TelemetryConfig(
        tracing=traces is not None,
        tracer_provider=None if traces is None else traces.provider,
        metrics=False,
        logs=False,
        operation_spans=False,
        auto_configure=False,
        exclude=lambda scope: scope["path"] in QUIET_ROUTES,
    )


def create_app(settings: Settings, read: ReadFile = read_plain) -> FastAPI:
    """Build the app; its threads start with its lifespan and end with it."""
    runtime = Runtime(settings, read)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        runtime.start()
        yield
        await runtime.stop()

    app = FastAPIOffline(  # serves the page's assets itself: /docs works without a network
        redoc_url=None,
        title="nestling",
        summary="A small language model, served while it learns.",
        version=importlib.metadata.version("nestling"),
        lifespan=lifespan,
        telemetry=_telemetry(runtime),
    )
    app.state.runtime = runtime
    app.add_middleware(ArrivalMiddleware, clock=runtime.clock)
    app.add_middleware(BodyLimitMiddleware, max_body_bytes=settings.max_body_bytes)
    install_error_handlers(app)
    for room in (generate, models, checkpoints, health, home):
        app.include_router(room.router)
    return app

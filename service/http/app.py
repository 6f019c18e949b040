"""The FastAPI app of one service. Nothing happens at import: ``create_app(settings)`` makes it."""

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline

from lm.volume import OpenFile, open_plain
from service.front import Front
from service.http.answering.answer import CHECKPOINT_HEADER
from service.http.errors import install_error_handlers
from service.http.middleware.api_key import HEALTH, METRICS, KeyMiddleware, say_keys_in_schema
from service.http.middleware.arrival import REQUEST_ID_HEADER, ArrivalMiddleware
from service.http.middleware.body_limit import BodyLimitMiddleware
from service.http.middleware.unexpected_error import FaultMiddleware
from service.http.openapi import complete_page
from service.http.operations import checkpoints, health, history, home, models
from service.http.protocols import tokenize as tokens
from service.http.protocols.nestling import generate
from service.http.protocols.openai import routes as openai
from service.http.protocols.tgi import routes as tgi
from service.observe.log_pipe import report_drops
from service.observe.traces import QUIET_ROUTES
from service.runtime import Runtime
from service.settings.schema import Settings
from service.version import version as installed_version


def _telemetry(runtime: Front) -> TelemetryConfig:
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


def create_app(settings: Settings, open_file: OpenFile = open_plain) -> FastAPI:
    """Build the app; its threads start with its lifespan and end with it."""
    return app_over(Runtime(settings, open_file))


def app_over(runtime: Front) -> FastAPI:
    """Build the app over a runtime that may be loading its first model already."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        report_drops(runtime.metrics.on_log_dropped)
        await runtime.start()
        yield
        await runtime.stop()

    app = FastAPIOffline(  # serves the page's assets itself: /docs works without a network
        redoc_url=None,
        redirect_slashes=False,  # the answer would repeat a path of any length
        title="nestling",
        summary="A small language model, served while it learns.",
        version=installed_version(),
        lifespan=lifespan,
        telemetry=_telemetry(runtime),
    )
    app.state.runtime = runtime
    _add_middleware(app, runtime)
    add_rooms(app)
    complete_page(app)
    return app


def add_rooms(app: FastAPI) -> None:
    """Every route, and its errors."""
    install_error_handlers(app)
    for room in (generate, openai, tgi, tokens, models, checkpoints, history, health, home):
        app.include_router(room.router)


def _add_middleware(app: FastAPI, runtime: Front) -> None:
    """What every request passes on its way to any route; what is added last is outermost."""
    settings = runtime.settings
    app.add_middleware(BodyLimitMiddleware, max_body_bytes=settings.max_body_bytes)
    if settings.api_keys is not None:
        unguarded = HEALTH if settings.guard_metrics else HEALTH | {METRICS}
        app.add_middleware(
            KeyMiddleware,
            keys=settings.api_keys | settings.admin_key,
            unguarded=unguarded,
        )
        say_keys_in_schema(app, unguarded)
    app.add_middleware(FaultMiddleware)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", REQUEST_ID_HEADER),
            expose_headers=(REQUEST_ID_HEADER, CHECKPOINT_HEADER, "Retry-After"),
        )
    app.add_middleware(ArrivalMiddleware, clock=runtime.clock)

"""What the protocol layer costs: a stub engine gives tokens at a pace, clients stream them.

``python -m bench.http`` starts servers as processes of their own, one after another, and counts the
CPU seconds of each while 64 streams get 5,000 tokens a second together:

- ``service``: this service whole, from the engine's thread to the socket;
- ``starlette``: the same bytes, ready made, through a bare ``StreamingResponse``;
- ``fastapi``: the same events through FastAPI's own ``EventSourceResponse``.

CPU seconds depend little on what else runs, so the share of a core is given at the pace itself,
whether or not the machine held it (``tokens_per_s`` says). The last line is JSON.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import httpx
import psutil
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from tokenizers import Tokenizer as Backend
from tokenizers import models

from bench.machine import machine
from lm.text.tokenizer import Tokenizer
from service.engine.engine import Engine
from service.engine.request import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    Started,
    StepStats,
    TokenGenerated,
)
from service.engine.served_model import Checkpoint, ServedModel
from service.http.app import create_app
from service.http.protocols.nestling.schemas import TokenEvent
from service.http.server import server_config
from service.runtime import Runtime
from service.settings.schema import Settings

STREAMS = 64
TOKENS_PER_S = 5000
NEW_TOKENS = 500
TURN_S = STREAMS / TOKENS_PER_S
"""One token for each stream in a turn."""
KINDS = ("service", "starlette", "fastapi")
TEXT = " token"


class StubEngine:
    """Gives every request a token a turn, at the pace, and costs nothing else."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}
        self._new: list[str] = []
        self._due = time.perf_counter()

    @property
    def is_idle(self) -> bool:
        return not self._left

    def submit(self, request: GenerationRequest) -> None:
        self._left[request.request_id] = request.max_new_tokens
        self._new.append(request.request_id)

    def expire(self, now: float) -> list[Event]:
        assert now > 0
        return []

    def finish(self, request_id: str, reason: FinishReason) -> list[Event]:
        return [Finished(request_id, reason)] if self._left.pop(request_id, None) else []

    def finish_all(self, reason: FinishReason, _: str = "") -> list[Event]:
        return [event for name in list(self._left) for event in self.finish(name, reason)]

    def step(self) -> list[Event]:
        self._due = max(self._due + TURN_S, time.perf_counter() - TURN_S)
        time.sleep(max(0.0, self._due - time.perf_counter()))
        events: list[Event] = [Started(name) for name in self._new]
        self._new.clear()
        for name in list(self._left):
            events.append(TokenGenerated(name, 5, TEXT))
            self._left[name] -= 1
            if not self._left[name]:
                del self._left[name]
                events.append(Finished(name, FinishReason.LENGTH))
        return events

    def observe(self, step_s: float) -> None:
        assert step_s >= 0

    def stats(self) -> StepStats:
        return StepStats(num_running=len(self._left), batch_size=len(self._left))


def service_app() -> tuple[FastAPI, Settings]:
    """Our own, with a stub instead of a model."""
    settings = Settings(
        volume=Path(tempfile.mkdtemp()), port=0, num_slots=STREAMS, log_level="warning"
    )
    app = create_app(settings)
    model = ServedModel(
        checkpoint=Checkpoint(run="stub", step=1, fingerprint="0" * 64, created_at=0.0),
        tokenizer=Tokenizer(
            Backend(models.WordLevel({"a": 0, "b": 1}, unk_token="b")),
            bos_token_id=None,
            eos_token_ids=(),
        ),
        engine=cast("Engine", StubEngine()),
        max_model_tokens=8192,
        dtype="none",
        device="cpu",
        load_s=0.0,
    )
    app.state.runtime.worker.flip(model)
    return app, settings


class Ticker:
    """A thread that wakes every stream once a turn, as the engine's thread does."""

    def __init__(self) -> None:
        self._queues: list[asyncio.Queue[int]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def listen(self) -> "asyncio.Queue[int]":
        """A queue that gets a token a turn from now on."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            threading.Thread(target=self._run, daemon=True).start()
        queue: asyncio.Queue[int] = asyncio.Queue()
        self._queues.append(queue)
        return queue

    def _run(self) -> None:
        assert self._loop is not None
        due = time.perf_counter()
        while True:
            due = max(due + TURN_S, time.perf_counter() - TURN_S)
            time.sleep(max(0.0, due - time.perf_counter()))
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for queue in self._queues:
            queue.put_nowait(5)


def plain_app(kind: str) -> tuple[FastAPI, Settings]:
    """The least that a stream takes."""
    app, ticker = FastAPI(), Ticker()

    if kind == "starlette":

        async def bytes_of_stream() -> AsyncIterator[bytes]:
            queue = ticker.listen()
            frame = f"data: {TokenEvent(token_id=5, text=TEXT).model_dump_json()}\n\n".encode()
            for _ in range(NEW_TOKENS):
                await queue.get()
                yield frame
            yield b"data: [DONE]\n\n"

        @app.post("/generate")
        async def generate(request: Request) -> StreamingResponse:
            await request.json()
            return StreamingResponse(bytes_of_stream(), media_type="text/event-stream")
    else:

        @app.post("/generate", response_class=EventSourceResponse)
        async def generate_events(body: dict[str, object]) -> AsyncIterator[TokenEvent]:
            queue = ticker.listen()
            assert body["stream"]
            for _ in range(NEW_TOKENS):
                yield TokenEvent(token_id=await queue.get(), text=TEXT)

    settings = Settings(port=0, log_level="warning")
    app.state.runtime = Runtime(settings)  # connections count their refusals in it
    return app, settings


def serve(kind: str) -> None:
    """Run one server until it is killed; prints its port."""
    app, settings = service_app() if kind == "service" else plain_app(kind)
    server = uvicorn.Server(server_config(app, settings))

    async def run() -> None:
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        sys.stdout.write(f"{server.servers[0].sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await serving

    asyncio.run(run())


async def stream_all(port: int, measure: Callable[[], float]) -> dict[str, float]:
    """Open every stream, read them to their ends; CPU and wall seconds, and tokens."""
    body = {"prompt": "a", "max_new_tokens": NEW_TOKENS, "stream": True}
    limits = httpx.Limits(max_connections=STREAMS)
    async with httpx.AsyncClient(timeout=120, limits=limits) as client:

        async def read() -> int:
            url = f"http://127.0.0.1:{port}/generate"
            count = 0
            async with client.stream("POST", url, json=body) as response:
                response.raise_for_status()
                async for piece in response.aiter_bytes():
                    count += piece.count(b'"token_id"')
            return count

        cpu, began = measure(), time.perf_counter()
        counts = await asyncio.gather(*(read() for _ in range(STREAMS)))
        wall_s = time.perf_counter() - began
        return {"cpu_s": measure() - cpu, "wall_s": wall_s, "tokens": sum(counts)}


def measure(kind: str) -> dict[str, float]:
    """One server's row."""
    command = [sys.executable, "-m", "bench.http", "--serve", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            of = psutil.Process(process.pid)
            result = asyncio.run(stream_all(port, lambda: sum(of.cpu_times()[:2])))
        finally:
            process.kill()
    assert result["tokens"] == STREAMS * NEW_TOKENS, result
    cpu_s_per_token = result["cpu_s"] / result["tokens"]
    return {
        "share_of_a_core": round(cpu_s_per_token * TOKENS_PER_S, 3),
        "us_per_token": round(1e6 * cpu_s_per_token, 1),
        "tokens_per_s": round(result["tokens"] / result["wall_s"]),
    }


def main() -> None:
    """Measure all kinds in turns, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    rows = {kind: [] for kind in KINDS}  # type: dict[str, list[dict[str, float]]]
    for _ in range(options.repeats):
        for kind in KINDS:
            rows[kind].append(measure(kind))
    for kind, results in rows.items():
        best = min(results, key=lambda row: row["us_per_token"])
        print(f"{kind:10} {best}")
    print(json.dumps({"benchmark": "http", **machine(), "rows": rows}))


if __name__ == "__main__":
    main()

"""What it costs that engine and HTTP are processes of their own: microseconds a token, each side.

Steps of many streams, one token each, through the very code that serves: the hub that packs a
step's events in the engine's process, the door that unpacks them and makes their text in an HTTP
process, and the switchboard that observes and delivers them, whose counters lie in files there.
Beside it what the one process of ``--engine thread`` spends on the same. No model and no client.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from bench.machine import machine
from lm.sampling import SamplingParams
from lm.text.tokenizer import Tokenizer
from service.engine.output_text import TextStream
from service.engine.request import GenerationRequest, Started, StepStats, TokenGenerated
from service.engine.served_model import Checkpoint, ModelCard
from service.engine.worker import Turn, Worker
from service.observe.metrics import FrontMetrics, Metrics
from service.processes.engine_client import Door
from service.processes.multiplexer import Hub, Opened
from service.processes.supervisor import COUNT_IN
from service.processes.wire.frames import HEADER, Kind
from service.requests.limits import Admission, Limits
from service.requests.request_start import Arrival
from service.requests.tracker import Reply, Switchboard

ROUNDS = 200


class Wire:
    """An HTTP process that keeps the last frame."""

    is_open = True
    frame = b""

    def send(self, frame: bytes) -> None:
        """Keep it."""
        self.frame = frame


class Silent:
    """Stands where the engine is."""

    def submit(self, model: ModelCard, request: GenerationRequest) -> None:
        """Nothing."""

    def abort(self, request_id: str) -> None:
        """Nothing."""


def main() -> None:
    """Measure both sides, the second where counters lie in files, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 32, 256])
    parser.add_argument("--http-side", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.http_side:
        print(json.dumps([http_side(count) for count in options.streams]))
        return
    with tempfile.TemporaryDirectory() as directory:
        here = [sys.executable, "-m", "bench.engine_process", "--http-side", "--streams"]
        child = subprocess.run(
            [*here, *map(str, options.streams)],
            env=os.environ | {COUNT_IN: directory},
            stdout=subprocess.PIPE,
            check=True,
        )
    rows = [
        {"streams": count, **one_process(count), **engine_side(count), **there}
        for count, there in zip(options.streams, json.loads(child.stdout), strict=True)
    ]
    print("| " + " | ".join(rows[0]) + " |")
    print("|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")
    print(json.dumps({"benchmark": "engine_process", **machine(), "rows": rows}))


def one_process(count: int) -> dict[str, float]:
    """Text, and then observing and delivering, in the one process of ``--engine thread``."""
    switchboard, replies, tokenizer = open_replies(count, Metrics(time.time))
    texts = [TextStream(tokenizer, ()) for _ in replies]

    def make_texts() -> None:
        for text in texts:
            text.push(7)

    def deliver() -> None:
        switchboard.on_turn(a_turn([reply.request.request_id for reply in replies]))

    return {
        "thread: text": micros(make_texts, count),
        "thread: observe, deliver": micros(deliver, count),
    }


def engine_side(count: int) -> dict[str, float]:
    """Pack a step's events in the engine's process."""
    wire, hub = a_hub(count)
    turn = a_turn([f"0.{number}" for number in range(count)])
    spent = micros(lambda: hub.on_turn(turn), count)
    return {"engine: pack": spent, "bytes a token": round(len(wire.frame) / count, 1)}


def http_side(count: int) -> dict[str, float]:
    """Unpack, make text, observe and deliver in an HTTP process."""
    wire, hub = a_hub(count)
    hub.on_turn(a_turn([f"0.{number}" for number in range(count)]))
    payload = wire.frame[HEADER.size :]

    async def measure() -> float:
        switchboard, replies, _ = open_replies(count, FrontMetrics())
        door = Door(switchboard)
        for reply in replies:
            door.submit(reply.model, reply.request)
        return micros(lambda: door._on_frame(Kind.TURN, payload), count)  # noqa: SLF001

    return {"http: unpack, text, observe, deliver": asyncio.run(measure())}


def a_hub(count: int) -> tuple[Wire, Hub]:
    """A hub with so many requests of one HTTP process."""
    admission = Admission(Limits(num_slots=count, max_waiting_requests=count))
    worker = Worker(lambda _: None, time.perf_counter)
    hub, wire = Hub(Metrics(time.time), admission, worker), Wire()
    for number in range(count):
        request = a_request(f"0.{number}")
        hub._opened[request.request_id] = Opened(wire, number, "", request, "f")  # noqa: SLF001
    return wire, hub


def open_replies(count: int, metrics: FrontMetrics) -> tuple[Switchboard, list[Reply], Tokenizer]:
    """Replies under way, whose first token is still to come."""
    tokenizer = a_tokenizer()
    checkpoint = Checkpoint(run="bench", step=1, fingerprint="f", created_at=0.0)
    card = ModelCard(
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        max_model_tokens=2048,
        dtype="float32",
        device="cpu",
        load_s=0.0,
    )
    admission = Admission(Limits(num_slots=count, max_waiting_requests=0))
    switchboard = Switchboard(metrics, admission)
    replies = [
        switchboard.open(Silent(), card, a_request(str(number)), Arrival(0.0, "/generate", "x"))
        for number in range(count)
    ]
    names = [reply.request.request_id for reply in replies]
    switchboard.on_turn(Turn([Started(name) for name in names], 0.0, 0.0, StepStats()))
    return switchboard, replies, tokenizer


def a_request(request_id: str) -> GenerationRequest:
    """One that goes on for long."""
    return GenerationRequest(
        request_id=request_id, prompt_ids=(5,), max_new_tokens=2000, sampling=SamplingParams()
    )


def a_tokenizer() -> Tokenizer:
    """Byte-level pieces, as byte-pair encodings have them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, bos_token_id=None, eos_token_ids=())


def a_turn(names: Sequence[str]) -> Turn:
    """A step that brings each of these a token."""
    now = time.perf_counter()
    return Turn([TokenGenerated(name, 7, "") for name in names], now, now, StepStats())


def micros(work: Callable[[], None], count: int) -> float:
    """Median microseconds of a part of the work, of which there are so many."""
    spent = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return round(statistics.median(spent) / count * 1e6, 2)


if __name__ == "__main__":
    main()

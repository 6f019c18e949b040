"""Who leaves while a model is loaded for them is told to the engine's process, which drops it."""

import asyncio
import dataclasses
import socket
from pathlib import Path

from serving import generation_request, toy_served

from service.engine.request import Finished, FinishReason, TokenGenerated
from service.observe.metrics import FrontMetrics
from service.processes.engine_client import Door
from service.processes.wire.frames import Kind, Splitter, message, read
from service.processes.wire.turns import TurnWriter
from service.requests.limits import Admission, Limits
from service.requests.request_start import Arrival
from service.requests.tracker import Switchboard


def test_a_name_that_nobody_waits_for_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "engine"

    async def run() -> None:
        admission = Admission(Limits(num_slots=1, max_waiting_requests=0))
        door = Door(Switchboard(FrontMetrics(), admission))
        door.connect(path)
        engine, _ = listener.accept()
        engine.setblocking(False)
        frames: list[tuple[Kind, bytes]] = []
        splitter = Splitter()

        async def heard(count: int) -> None:
            async with asyncio.timeout(10):
                while len(frames) < count:
                    data = await asyncio.get_running_loop().sock_recv(engine, 4096)
                    frames.extend(splitter.feed(data))

        with engine:
            asking = asyncio.ensure_future(door.find("toy@5", 9.0, "198.51.100.7"))
            await heard(1)
            asking.cancel()
            await heard(2)
            (asked, named), (kind, forgotten) = frames
            said = read(named)[0]
            assert (asked, said["name"], said["party"]) == (Kind.NAME, "toy@5", "198.51.100.7")
            assert (kind, read(forgotten)[0]) == (Kind.FORGET, {"call": said["call"]})
            # An answer that was under way meanwhile is for nobody.
            error = {"kind": "NotReady", "message": "late"}
            late = message(Kind.NAMED, {"call": said["call"], "error": error})
            await asyncio.get_running_loop().sock_sendall(engine, late)
            await asyncio.sleep(0.05)
            assert door.is_open
        door.close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        asyncio.run(run())


def test_a_text_that_cannot_be_made_ends_its_request_alone() -> None:
    class Panic(BaseException):
        """As pyo3's."""

    class Stream:
        def push(self, _: int) -> tuple[str, bool]:
            raise Panic

        def finish(self) -> tuple[str, bool]:
            raise Panic

    admission = Admission(Limits(num_slots=4, max_waiting_requests=0))
    switchboard = Switchboard(FrontMetrics(), admission)
    door = Door(switchboard)
    model = toy_served()
    replies = [
        switchboard.open(door, model, generation_request(name), Arrival(0.0, "/", name))
        for name in ("bad", "good")
    ]
    door._asked[0] = dataclasses.replace(door._asked[0], text=Stream())  # type: ignore[arg-type]
    sent: list[bytes] = []
    door._send = sent.append  # type: ignore[method-assign]
    for event in (TokenGenerated("", 5, ""), Finished("", FinishReason.ABORT)):
        writer = TurnWriter()
        writer.add(0, event)
        writer.add(1, TokenGenerated("", 6, ""))
        door._on_frame(Kind.TURN, writer.payload(0.0, 0.1))
    assert len(sent) == 1, "the engine is told once"
    bad, good = replies
    assert bad.is_finished
    assert bad.has_event
    assert not good.is_finished
    assert good.num_tokens == 2
    assert door._broken == set()

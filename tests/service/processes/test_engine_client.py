import asyncio
import socket
from pathlib import Path

from service.observe.metrics import FrontMetrics
from service.processes.engine_client import Door
from service.processes.wire.frames import Kind, message
from service.requests.limits import Admission, Limits
from service.requests.tracker import Switchboard


def test_a_card_that_makes_no_sense_ends_the_talk(tmp_path: Path) -> None:
    path = tmp_path / "engine"

    async def run() -> None:
        admission = Admission(Limits(num_slots=1, max_waiting_requests=0))
        door = Door(Switchboard(FrontMetrics(), admission))
        door.connect(path)
        engine, _ = listener.accept()
        with engine:
            engine.sendall(message(Kind.CURRENT, {"card": {"tokenizer": "nobody sent it"}}))
            async with asyncio.timeout(10):
                await door.is_lost.wait()
        assert not door.is_open
        assert door.current is None

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        asyncio.run(run())

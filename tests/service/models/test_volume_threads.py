import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from service.errors import DeadlineExceeded, NotReady, UnknownModel
from service.models.volume_threads import MAX_WAITING, NUM_THREADS, VolumeReads

TIMEOUT_S = 0.1


@pytest.fixture
def reads() -> Iterator[VolumeReads]:
    reads = VolumeReads(TIMEOUT_S)
    yield reads
    reads.stop()


class Seen(BaseModel):
    number: float


def test_what_is_read_comes_back_and_errors_are_those_of_requests(reads: VolumeReads) -> None:
    def fail(error: Exception) -> None:
        raise error

    async def ask() -> None:
        assert await reads.read(lambda: 7) == 7
        assert await reads.read_json(lambda: Seen(number=1.5)) == b'{"number":1.5}'
        with pytest.raises(NotReady, match="no disk"):
            await reads.read(lambda: fail(OSError("no disk")))
        with pytest.raises(UnknownModel):
            await reads.read(lambda: fail(UnknownModel("x")))

    asyncio.run(ask())


def test_a_volume_that_hangs_is_an_error_in_time_then_at_once_and_ends(reads: VolumeReads) -> None:
    released = threading.Event()

    async def ask() -> None:
        began = time.monotonic()
        asked = [reads.read(released.wait) for _ in range(NUM_THREADS + 3)]
        ended = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(one) for one in ended} == {DeadlineExceeded}
        assert time.monotonic() - began < 20 * TIMEOUT_S
        with pytest.raises(NotReady, match="does not answer"):
            await reads.read(lambda: 1)
        released.set()
        for _ in range(200):
            await asyncio.sleep(0.01)
            try:
                assert await reads.read(lambda: 2) == 2
                return
            except (NotReady, DeadlineExceeded):  # late on a busy machine
                continue
        raise AssertionError("it does not recover")

    asyncio.run(ask())


def test_few_may_wait(reads: VolumeReads) -> None:
    released = threading.Event()

    async def ask() -> None:
        asked = [
            asyncio.ensure_future(reads.read(released.wait))
            for _ in range(NUM_THREADS + MAX_WAITING + 5)
        ]
        ended = await asyncio.gather(*asked, return_exceptions=True)
        assert NotReady in {type(one) for one in ended}
        released.set()

    asyncio.run(ask())


def test_threads_are_as_few_as_are_needed(reads: VolumeReads) -> None:
    async def ask() -> None:
        for number in range(20):
            assert await reads.read(lambda number=number: number) == number  # type: ignore[misc]

    asyncio.run(ask())
    assert len(reads._threads) <= NUM_THREADS

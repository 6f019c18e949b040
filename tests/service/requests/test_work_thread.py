"""A lane: one piece of work at a time, clients in turn, nothing for those that left."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from service.errors import QueueFull, TooManyRequests
from service.requests import work_thread as lane
from service.requests.work_thread import Lane


class Held:
    """A lane whose thread waits until it is let go; ``log`` has what it did since."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.seconds = 0.0
        self.rests: list[float] = []
        self.lane = Lane("test", clock=lambda: self.seconds, rest=self.rests.append)
        self._go = threading.Event()
        self._has_begun = threading.Event()

    def work(self, name: str, seconds: float = 1.0) -> Callable[[], str]:
        def work() -> str:
            self.seconds += seconds
            self.log.append(name)
            return name

        return work

    @contextlib.asynccontextmanager
    async def holding(self) -> AsyncIterator[None]:
        def hold() -> None:
            self._has_begun.set()
            self._go.wait(10)

        first = asyncio.ensure_future(self.lane.do("holder", hold))
        await asyncio.to_thread(self._has_begun.wait, 10)
        try:
            yield
        finally:
            self._go.set()
            await first


def test_work_gives_what_it_gives_and_raises_what_it_raises() -> None:
    async def scenario() -> None:
        lane = Lane("test")
        assert await lane.do("a", lambda: 7) == 7
        with pytest.raises(KeyError):
            await lane.do("a", lambda: {}["no"])
        assert await lane.do("a", threading.get_ident) != threading.get_ident()

    asyncio.run(scenario())


def test_the_client_that_took_least_time_comes_next() -> None:
    async def scenario() -> None:
        held = Held()
        async with held.holding():
            asked = [
                asyncio.ensure_future(held.lane.do(client, held.work(name, seconds)))
                for client, name, seconds in [
                    *(("greedy", f"greedy {number}", 10.0) for number in range(4)),
                    *(("modest", f"modest {number}", 1.0) for number in range(4)),
                ]
            ]
            await asyncio.sleep(0)
        await asyncio.gather(*asked)
        assert held.log[0] == "greedy 0"
        assert held.log[1:5] == [f"modest {number}" for number in range(4)]

    asyncio.run(scenario())


def test_work_that_nobody_waits_for_never_begins() -> None:
    async def scenario() -> None:
        held = Held()
        async with held.holding():
            left = asyncio.ensure_future(held.lane.do("a", held.work("left")))
            stays = asyncio.ensure_future(held.lane.do("a", held.work("stays")))
            await asyncio.sleep(0)
            assert held.lane.num_waiting == 2
            left.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert held.lane.num_waiting == 1
        assert await stays == "stays"
        assert held.log == ["stays"]

    asyncio.run(scenario())


def test_what_waits_is_bounded_for_each_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "MAX_WAITING_OF_CLIENT", 2)
    monkeypatch.setattr(lane, "MAX_WAITING", 3)

    async def scenario() -> None:
        held = Held()
        async with held.holding():
            asked = [
                asyncio.ensure_future(held.lane.do(client, held.work(client)))
                for client in ("a", "a", "b")
            ]
            await asyncio.sleep(0)
            with pytest.raises(TooManyRequests):
                await held.lane.do("a", held.work("a"))
            with pytest.raises(QueueFull, match="3 requests"):
                await held.lane.do("c", held.work("c"))
        await asyncio.gather(*asked)
        assert sorted(held.log) == ["a", "a", "b"]

    asyncio.run(scenario())


def test_an_idle_thread_ends_and_the_next_work_starts_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "IDLE_S", 0.01)

    async def scenario() -> None:
        one = Lane("comes and goes")
        assert await one.do("a", lambda: 1) == 1
        for _ in range(200):
            if not any(thread.name == "comes and goes" for thread in threading.enumerate()):
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("the thread stays")
        assert await one.do("a", lambda: 2) == 2

    asyncio.run(scenario())


def test_its_thread_rests_behind_work_that_took_long_while_more_waits() -> None:
    async def scenario() -> list[float]:
        held = Held()
        async with held.holding():
            works = [held.work("a", 0.01), held.work("b", 0.02), held.work("c", 5.0)]
            works.append(held.work("d", 0.5))
            waiting = [asyncio.ensure_future(held.lane.do("one", work)) for work in works]
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        return held.rests

    rests = asyncio.run(scenario())
    assert rests == pytest.approx([0.0, 0.03, 0.06, lane.LONGEST_REST_S]), "none behind the last"

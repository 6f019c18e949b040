import asyncio
import time

from service.observe.loop_lag import INTERVAL_S, beat


def test_what_holds_the_loop_up_is_seen() -> None:
    lags: list[float] = []

    async def hold_up() -> None:
        beating = asyncio.ensure_future(beat(lags.append, time.perf_counter))
        while not lags:
            await asyncio.sleep(INTERVAL_S / 2)
        lags.clear()
        time.sleep(0.1 + INTERVAL_S)
        while not lags:
            await asyncio.sleep(0)
        beating.cancel()

    asyncio.run(hold_up())
    assert lags[0] >= 0.1 - INTERVAL_S


def test_a_clock_that_wakes_early_is_no_negative_lag() -> None:
    lags: list[float] = []

    async def watch() -> None:
        beating = asyncio.ensure_future(beat(lags.append, lambda: 5.0))
        while not lags:
            await asyncio.sleep(INTERVAL_S)
        beating.cancel()

    asyncio.run(watch())
    assert set(lags) == {0.0}

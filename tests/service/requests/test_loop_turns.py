"""One request a turn of the loop, in the order of coming."""

import asyncio

from service.requests.loop_turns import Turnstile


def test_one_is_let_in_a_turn_in_order() -> None:
    async def scenario() -> None:
        turnstile, turns, let_in = Turnstile(), [0], []

        async def count() -> None:
            while True:
                turns[0] += 1
                await asyncio.sleep(0)

        async def come(number: int) -> None:
            await turnstile.enter()
            let_in.append((number, turns[0]))

        counting = asyncio.ensure_future(count())
        await asyncio.gather(*(come(number) for number in range(20)))
        counting.cancel()
        assert [number for number, _ in let_in] == list(range(20))
        assert len({turn for _, turn in let_in}) == 20

    asyncio.run(scenario())


def test_who_leaves_is_passed_over() -> None:
    async def scenario() -> None:
        turnstile = Turnstile()
        await turnstile.enter()
        waiting = [asyncio.ensure_future(turnstile.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        waiting[1].cancel()
        await asyncio.wait_for(waiting[2], 5)
        await asyncio.wait_for(turnstile.enter(), 5)

    asyncio.run(scenario())

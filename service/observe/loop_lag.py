"""How late the event loop is: a coroutine that wakes at fixed times, and how long after it did.

What holds the loop up holds up every stream: a callback that takes long, the interpreter's lock in
the engine's thread, cores that are all busy.
"""

import asyncio
from collections.abc import Callable

INTERVAL_S = 0.01


async def beat(on_lag: Callable[[float], None], clock: Callable[[], float]) -> None:
    """Report each wake-up's delay in seconds, until cancelled."""
    while True:
        due = clock() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        on_lag(max(0.0, clock() - due))

import asyncio
from collections.abc import AsyncIterator

from service.http.answering.answer import MOST_JOINED, joined


class Inbox:
    """Says how many events are there still, by the frames that were made of them."""

    def __init__(self, num_left: list[int]) -> None:
        self._num_left = iter(num_left)

    @property
    def has_event(self) -> bool:
        return next(self._num_left) > 0


def pieces(num_left: list[int]) -> list[str]:
    async def frames() -> AsyncIterator[str]:
        for number in range(len(num_left)):
            yield f"{number};"

    async def run() -> list[str]:
        inbox = Inbox(num_left)
        return [piece async for piece in joined(frames(), inbox)]  # type: ignore[arg-type]

    return asyncio.run(run())


def test_what_is_there_leaves_together_and_nothing_waits() -> None:
    assert pieces([0, 0, 0]) == ["0;", "1;", "2;"]
    assert pieces([2, 1, 0, 0]) == ["0;1;2;", "3;"]
    assert pieces([0, 3, 2, 1]) == ["0;", "1;2;3;"], "the last ones are not lost"


def test_a_piece_is_bounded() -> None:
    sizes = [piece.count(";") for piece in pieces([1] * (2 * MOST_JOINED + 5))]
    assert sizes == [MOST_JOINED, MOST_JOINED, 5]

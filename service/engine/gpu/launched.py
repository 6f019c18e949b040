"""A plan that the device is computing, and what comes of it."""

import dataclasses
from collections.abc import Callable, Set
from collections.abc import Sequence as Items

import torch
from torch import Tensor

from service.engine.gpu.buffers.outputs import Drawn
from service.engine.request_faults import must_pass
from service.engine.sampling.rows import draw_row
from service.engine.scheduling.plan import Chunk
from service.engine.scheduling.sequence import Sequence

MAX_HOST_ROWS = 16
"""Logits of more rows of one chunk stay on the device until they are scored."""


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """What one recorded step gives, some of a plan's rows."""

    chunks: Items[int]
    """For each row the chunk, by its number in the plan; rows of one chunk are neighbours."""
    drawn: Drawn
    """Valid once the device is done."""
    kept: Items[tuple[int, Tensor]]
    """Chunks whose logits are wanted, and those of their rows, [n, V]."""


def keep_logits(logits: Tensor, chunks: Items[int], wanted: Set[int]) -> list[tuple[int, Tensor]]:
    """Copies of the rows of logits [R, V] that the host wants, before the next step overwrites."""
    if not wanted:  # most steps
        return []
    kept: list[tuple[int, Tensor]] = []
    first = 0
    while first < len(chunks):
        number, end = chunks[first], first + 1
        while end < len(chunks) and chunks[end] == number:
            end += 1
        if number in wanted:
            rows = logits[first:end]
            if rows.is_cuda and end - first <= MAX_HOST_ROWS:
                host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
                kept.append((number, host.copy_(rows, non_blocking=True)))
            else:
                kept.append((number, rows.clone()))
        first = end
    return kept


class StepResult:
    """What a launched plan gave, chunk by chunk."""

    def __init__(self, chunks: Items[Chunk], num_draws: Items[int], parts: Items[Part]) -> None:
        self._parts = parts
        self.token_ids: list[list[int]] = [[] for _ in chunks]
        """The drawn tokens of each chunk."""
        self.faults: dict[int, BaseException] = {}
        """Why there is nothing of a chunk whose tokens are drawn on the host."""
        self.is_finite = [True] * len(chunks)
        """Whether the hidden states that each chunk's draws were made from are finite."""
        for part in parts:
            count = len(part.chunks)
            token_ids, finite = part.drawn.read(count)
            for number, token_id, is_finite in zip(part.chunks, token_ids, finite, strict=True):
                self.token_ids[number].append(token_id)
                if not is_finite:
                    self.is_finite[number] = False
        for number, count in enumerate(num_draws):
            drawn = self.token_ids[number]
            if len(drawn) != count:  # a scored prompt has rows that nothing is drawn from
                self.token_ids[number] = drawn[len(drawn) - count :]

    def logits(self, chunk: int) -> Tensor:
        """Logits [``num_logits``, V] of a chunk that asked for scores or is drawn on the host."""
        rows = [rows for part in self._parts for number, rows in part.kept if number == chunk]
        if len({part.device for part in rows}) > 1:
            rows = [part.cpu() for part in rows]
        return torch.cat(rows)


class Launched:
    """Steps that were queued on a device, to be read once they are done."""

    def __init__(
        self,
        chunks: Items[Chunk],
        num_draws: Items[int],
        wanted: Items[int],
        parts: Items[Part],
        device: torch.device,
        draws_on_host: Callable[[Sequence], bool],
    ) -> None:
        """``num_draws`` and those ``wanted`` (numbers) are as they were when it was launched."""
        self._chunks = chunks
        self._num_draws = num_draws
        self._wanted = wanted
        self._parts = parts
        self._draws_on_host = draws_on_host
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def collect(self) -> StepResult:
        """Wait for the device, and draw what can only be drawn on the host."""
        if self._event is not None:
            self._event.synchronize()
        result = StepResult(self._chunks, self._num_draws, self._parts)
        for number in self._wanted:  # all others are drawn on the device
            chunk = self._chunks[number]
            sequence = chunk.sequence
            count = self._num_draws[number]
            if not count or sequence.slot is None or not self._draws_on_host(sequence):
                continue
            try:
                rows = result.logits(number)[-count:]
                result.token_ids[number] = [
                    draw_row(row, sequence, chunk.draft[:ahead]) for ahead, row in enumerate(rows)
                ]
            except BaseException as error:
                if must_pass(error):
                    raise
                result.faults[number] = error
        return result

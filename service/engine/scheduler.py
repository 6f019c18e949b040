"""What the next step computes: a pure policy over numbers, without tensors or time.

Running sequences decode in every step; what is left of the token budget goes to prompts, first
come first served, in chunks. So no stream waits for more than one chunk of a newcomer's prompt,
and no newcomer starves, since the budget exceeds what decoding can take. What a newcomer's prompt
shares with a slot, running or finished, is copied instead of computed.
"""

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from service.engine.sequence import Sequence
from service.engine.slots import Lease, SlotPool


class Chunk(NamedTuple):
    """Tokens [start, end) of a sequence, to be computed in one step."""

    sequence: Sequence
    start: int
    end: int
    draft: tuple[int, ...] = ()
    """Guesses at the sequence's next tokens: the last ones of the chunk, to be verified."""

    @property
    def num_tokens(self) -> int:
        """Tokens to compute."""
        return self.end - self.start

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens themselves."""
        return (*self.sequence.tokens(self.start, self.end), *self.draft)

    @property
    def slot(self) -> int:
        """Cache row of the sequence."""
        assert self.sequence.slot is not None, "scheduled sequences hold a slot"
        return self.sequence.slot

    @property
    def num_draws(self) -> int:
        """How many of its last tokens are followed by a draw: from the sequence's last on."""
        return max(0, self.end - self.sequence.num_tokens + 1)

    @property
    def scores_prompt(self) -> bool:
        """Whether its tokens are a prompt's whose next tokens are to be scored."""
        request = self.sequence.request
        return request.prompt_logprobs is not None and self.start < len(request.prompt_ids)

    @property
    def num_logits(self) -> int:
        """How many of its last tokens yield logits."""
        return self.num_tokens if self.scores_prompt else self.num_draws


@dataclasses.dataclass(frozen=True)
class Plan:
    """One step: at most one chunk a sequence; single tokens first by slot, then prompts."""

    chunks: tuple[Chunk, ...]
    started: tuple[Sequence, ...]
    """Sequences that left the queue in this step; what they share counts as computed."""
    copies: tuple[Lease, ...] = ()
    """What to copy for them before the step, in this order."""


class Scheduler:
    """Queue and running set of one model."""

    def __init__(
        self,
        *,
        num_slots: int,
        max_step_tokens: int,
        reuse_prefixes: bool = True,
        slots: SlotPool | None = None,
    ) -> None:
        """``slots`` where they are shared with another model's scheduler."""
        if max_step_tokens <= num_slots:
            raise ValueError(
                f"max_step_tokens {max_step_tokens} must exceed the {num_slots} slots, "
                "else prompts could starve"
            )
        self._slots = SlotPool(num_slots) if slots is None else slots
        self._max_step_tokens = max_step_tokens
        self._reuse_prefixes = reuse_prefixes
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        """In the order of arrival."""

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.waiting.append(sequence)

    def find(self, request_id: str) -> Sequence | None:
        """The queued or running sequence of a request."""
        for sequence in (*self.running, *self.waiting):
            if sequence.request_id == request_id:
                return sequence
        return None

    def remove(self, sequence: Sequence) -> None:
        """Drop a queued or running sequence and free its slot, which keeps what was computed."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self._slots.give_back(sequence.slot, self._computed(sequence))
        sequence.slot = None

    def schedule(self, is_held: Callable[[Sequence], bool] | None = None) -> Plan | None:
        """The next step, ``None`` if there is nothing to do. Takes slots for newcomers.

        A running sequence that ``is_held`` is left out of the step.
        """
        started, copies = self._admit()
        running = self.running
        if is_held is not None:
            running = [sequence for sequence in running if not is_held(sequence)]
        singles: list[Chunk] = []
        prompts: list[Sequence] = []
        for sequence in running:
            start = sequence.num_computed
            left = sequence.num_tokens - start
            if left == 1:
                singles.append(Chunk(sequence, start, start + 1))
            elif left:
                prompts.append(sequence)
        budget = self._max_step_tokens - len(singles)
        chunks: list[Chunk] = []
        for sequence in prompts:
            count = min(sequence.num_uncomputed, budget)
            if count:
                start = sequence.num_computed
                (singles if count == 1 else chunks).append(Chunk(sequence, start, start + count))
                budget -= count
        singles.sort(key=_slot)
        return Plan((*singles, *chunks), started, copies) if singles or chunks else None

    def check_integrity(self) -> None:
        """Assert that slots are conserved and held by running sequences alone."""
        held = [sequence.slot for sequence in self.running if sequence.slot is not None]
        assert len(held) == len(self.running)
        self._slots.check_integrity(held)
        assert all(sequence.slot is None for sequence in self.waiting)

    def _admit(self) -> tuple[tuple[Sequence, ...], tuple[Lease, ...]]:
        """Move sequences from the queue into free slots; what is to be copied for them."""
        started, copies = [], []
        used: dict[int, tuple[int, ...]] = {}
        if self.waiting and self._slots.num_free:
            used = {s.slot: self._computed(s) for s in self.running if s.slot is not None}
        while self.waiting and self._slots.num_free:
            sequence = self.waiting.popleft()
            request = sequence.request  # to score a prompt, all of it has to be computed
            shareable = request.prompt_ids if request.prompt_logprobs is None else ()
            lease = self._slots.take(shareable, used)
            sequence.slot, sequence.num_computed = lease.slot, lease.num_tokens
            used[lease.slot] = self._computed(sequence)
            self.running.append(sequence)
            started.append(sequence)
            if lease.source != lease.slot:
                copies.append(lease)
        return tuple(started), tuple(copies)

    def _computed(self, sequence: Sequence) -> tuple[int, ...]:
        """The tokens that its slot holds, for others to share."""
        return sequence.tokens(0, sequence.num_computed) if self._reuse_prefixes else ()


def _slot(chunk: Chunk) -> int:
    return chunk.slot

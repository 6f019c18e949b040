"""What the next step computes: a pure policy over numbers, without tensors or time.

Running sequences decode in every step; what is left of the token budget goes to prompts in chunks,
the client's first whose last chunk is longest ago. So no stream waits for more than one chunk of a
newcomer's prompt, and no newcomer starves, since the budget exceeds what decoding can take. What a
newcomer's prompt shares with a slot, running or finished, is copied instead of computed.

Clients share the slots (see ``waiting``). Where none is free, a client that waits and has at least
two slots less than another gets one of the other's: its youngest sequence goes back to the queue
with what it has written, and computes its keys and values again when it is its turn.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable

from service.engine.scheduling.plan import Chunk, Plan, weight_at
from service.engine.scheduling.prefill_pace import SMALLEST_CHUNK, Pace
from service.engine.scheduling.sequence import Sequence
from service.engine.scheduling.slots import Lease, SlotPool
from service.engine.scheduling.waiting_queue import WaitingQueue


class Scheduler:
    """Queue and running set of one model."""

    def __init__(
        self,
        *,
        num_slots: int,
        max_step_tokens: int,
        reuse_prefixes: bool = True,
        slots: SlotPool | None = None,
        pace: Pace | None = None,
        is_late: bool = False,
    ) -> None:
        """``slots`` where they are shared with another model's scheduler.

        ``pace`` bounds what prompts add to the steps that streams wait for. ``is_late``: the step
        before may still be computed when one is asked for, so that a sequence that is to lose its
        slot first sits a step out.
        """
        if max_step_tokens <= num_slots:
            raise ValueError(
                f"max_step_tokens {max_step_tokens} must exceed the {num_slots} slots, "
                "else prompts could starve"
            )
        self._slots = SlotPool(num_slots) if slots is None else slots
        self._max_step_tokens = max_step_tokens
        self._reuse_prefixes = reuse_prefixes
        self._pace = pace
        self._is_late = is_late
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []
        """In the order in which they got their slots."""
        self._num_running: Counter[str] = Counter()
        """Slots of each client; no client has 0."""
        self._leaving: Sequence | None = None
        """Who sits this step out and loses its slot in the next one."""
        self._chunk_numbers: dict[str, int] = {}
        """When each client with a slot last got a chunk of a prompt, or came; in steps."""
        self._num_steps = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.waiting.add(sequence)

    def find(self, request_id: str) -> Sequence | None:
        """The queued or running sequence of a request."""
        known = itertools.chain(self.running, self.waiting)
        return next((one for one in known if one.request_id == request_id), None)

    def remove(self, sequence: Sequence) -> None:
        """Drop a queued or running sequence and free its slot, which keeps what was computed."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
        else:
            self._take_slot_from(sequence)

    def schedule(self, is_held: Callable[[Sequence], bool] | None = None) -> Plan | None:
        """The next step, ``None`` if there is nothing to do. Takes slots for newcomers.

        A running sequence that ``is_held`` is left out of the step.
        """
        self._num_steps += 1
        started, copies = self._admit() if self.waiting or self._leaving else ((), ())
        running = self.running
        if is_held is not None:
            running = [one for one in running if not (one is self._leaving or is_held(one))]
        singles: list[Chunk] = []
        prompts: list[Sequence] = []
        for sequence in running:
            start = sequence.num_computed
            left = sequence.num_tokens - start
            if left == 1:
                singles.append(Chunk(sequence, start, start + 1))
            elif left:
                prompts.append(sequence)
        chunks: list[Chunk] = []
        for chunk in self._prompt_chunks(prompts, len(singles)) if prompts else ():
            (singles if chunk.num_tokens == 1 else chunks).append(chunk)
        singles.sort(key=_slot)
        return Plan((*singles, *chunks), started, copies) if singles or chunks else None

    def check_integrity(self) -> None:
        """Assert that slots are conserved and held by running sequences alone."""
        held = [sequence.slot for sequence in self.running if sequence.slot is not None]
        assert len(held) == len(self.running)
        self._slots.check_integrity(held)
        assert all(sequence.slot is None for sequence in self.waiting)
        assert self._num_running == Counter(sequence.client for sequence in self.running)

    def _prompt_chunks(self, prompts: list[Sequence], num_singles: int) -> list[Chunk]:
        """What is computed of some prompts beside so many streams.

        Within the token budget, and, where there are streams, within the time that the pace gives.
        """
        budget = self._max_step_tokens - num_singles
        pace = self._pace if num_singles else None
        left_s = math.inf if pace is None else pace.beside(num_singles)
        last = self._chunk_numbers
        chunks: list[Chunk] = []
        for sequence in sorted(prompts, key=lambda one: last[one.client]):
            weight = weight_at(sequence.num_computed)
            most = max(int(budget / weight), min(budget, SMALLEST_CHUNK))
            count = min(sequence.num_uncomputed, most)
            if pace is not None:
                is_scored = sequence.is_to_score
                least = 0 if chunks else SMALLEST_CHUNK
                count = min(count, max(least, pace.fitting(left_s, is_scored=is_scored)))
                left_s -= pace.seconds(count, is_scored=is_scored)
            if count:
                start = sequence.num_computed
                chunks.append(Chunk(sequence, start, start + count))
                last[sequence.client] = self._num_steps
                budget = max(0, budget - math.ceil(count * weight))
        return chunks

    def _admit(self) -> tuple[tuple[Sequence, ...], tuple[Lease, ...]]:
        """Move sequences from the queue into slots; what is to be copied for them."""
        if self._leaving is not None:
            self._pause(self._leaving)
        started, copies = [], []
        used: dict[int, tuple[int, ...]] | None = None
        while self.waiting:
            sequence = self.waiting.first(self._num_running)
            if not self._slots.num_free and not self._make_room(sequence.client):
                break
            if used is None:
                used = {s.slot: self._computed(s) for s in self.running if s.slot is not None}
            self.waiting.remove(sequence)
            # To score a prompt, all of it has to be computed.
            known = () if sequence.is_to_score else sequence.tokens(0, sequence.num_known)
            lease = self._slots.take(known, used)
            sequence.slot, sequence.num_computed = lease.slot, lease.num_tokens
            used[lease.slot] = self._computed(sequence)
            self.running.append(sequence)
            self._num_running[sequence.client] += 1
            # Not before those who wait for a chunk already, however many newcomers there are.
            self._chunk_numbers.setdefault(sequence.client, self._num_steps - 1)
            started.append(sequence)
            if lease.source != lease.slot:
                copies.append(lease)
        return tuple(started), tuple(copies)

    def _make_room(self, client: str) -> bool:
        """Free a slot of the client that has most for one that has at least two less.

        False if there is none, or none yet. The difference of two keeps slots from going to and
        fro: afterwards nobody has more reason to take one back.
        """
        counts = self._num_running
        if len(counts) < 1 + (client in counts):
            return False
        most = max(counts, key=counts.__getitem__)
        if counts[most] < counts.get(client, 0) + 2:
            return False
        own = [sequence for sequence in self.running if sequence.client == most]
        # The least is lost with who has computed least.
        youngest = min(own, key=lambda one: (one.num_computed, -one.number))
        if self._is_late:
            self._leaving = youngest
            return False
        self._pause(youngest)
        return True

    def _pause(self, sequence: Sequence) -> None:
        """Take a sequence's slot; it goes on with what it has written when it is its turn."""
        self._take_slot_from(sequence)
        sequence.num_computed = 0
        sequence.prompt_scores.clear()
        self.waiting.put_back(sequence)

    def _take_slot_from(self, sequence: Sequence) -> None:
        assert sequence.slot is not None, "who runs holds a slot"
        if sequence is self._leaving:
            self._leaving = None
        self.running.remove(sequence)
        self._num_running[sequence.client] -= 1
        if not self._num_running[sequence.client]:
            del self._num_running[sequence.client]
            self._chunk_numbers.pop(sequence.client, None)
        self._slots.give_back(sequence.slot, self._computed(sequence))
        sequence.slot = None

    def _computed(self, sequence: Sequence) -> tuple[int, ...]:
        """The tokens that its slot holds, for others to share."""
        return sequence.tokens(0, sequence.num_computed) if self._reuse_prefixes else ()


def _slot(chunk: Chunk) -> int:
    return chunk.slot

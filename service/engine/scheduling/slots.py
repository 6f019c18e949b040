"""Which rows of the cache are taken, and what the free ones still hold.

A finished sequence's slot is free at once and keeps its tokens until somebody needs the room, so
that a newcomer whose prompt begins alike need not compute them again. Plain numbers: the tensors
are in ``cache``.
"""

from collections.abc import Collection, Mapping
from itertools import compress, count
from operator import ne
from typing import NamedTuple


class Lease(NamedTuple):
    """A slot that was taken, and where the first tokens of its prompt already are."""

    slot: int
    source: int
    """Slot that holds them: this one, or one to copy from."""
    num_tokens: int


class SlotPool:
    """Hands out slots: empty ones first, the lowest, then what was used least recently."""

    def __init__(self, num_slots: int, first: int = 0) -> None:
        """Slots ``first``, ``first + 1``, … of a cache."""
        if num_slots < 1:
            raise ValueError(f"num_slots must be positive, got {num_slots}")
        self._all = range(first, first + num_slots)
        self._free: dict[int, tuple[int, ...]] = dict.fromkeys(self._all, ())
        """The token ids that each free slot holds, the least recently used first."""
        self._writers: dict[int, SlotPool] = {}
        """Who computed what each slot holds."""
        self._taken: dict[int, SlotPool] = {}

    def sibling(self) -> "SlotPool":
        """Another pool over the same slots, for other weights: it shares room but no prefix."""
        other = SlotPool(len(self._all), self._all.start)
        other._free, other._writers, other._taken = self._free, self._writers, self._taken
        return other

    @property
    def num_slots(self) -> int:
        """All slots, taken or free."""
        return len(self._all)

    @property
    def num_free(self) -> int:
        """Slots that can be taken now."""
        return len(self._free)

    def take(self, prompt_ids: tuple[int, ...], used: Mapping[int, tuple[int, ...]]) -> Lease:
        """Take a slot for a prompt; the caller has seen that one is free.

        Shares the longest prefix with a free slot or one of ``used`` (slot → token ids), but for
        the last token, whose logits are needed. A free slot that would lose nothing is taken
        itself.
        """
        source, num_tokens = None, 0
        own = ((slot, ids) for slot, ids in self._free.items() if self._writers.get(slot) is self)
        for known, token_ids in (*own, *used.items()):
            if token_ids[num_tokens : num_tokens + 1] != prompt_ids[num_tokens : num_tokens + 1]:
                continue  # so it shares no more; most are told apart here
            shared = min(shared_length(token_ids, prompt_ids), len(prompt_ids) - 1)
            if shared > num_tokens:
                source, num_tokens = known, shared
        slot = min((free for free, held in self._free.items() if not held), default=None)
        if source in self._free:
            held = self._free.pop(source)
            if held == prompt_ids[: len(held)]:
                self._taken[source] = self
                return Lease(source, source, num_tokens)
            self._free[source] = held  # as the last to go
        slot = next(iter(self._free)) if slot is None else slot
        del self._free[slot]
        self._taken[slot] = self
        return Lease(slot, slot if source is None else source, num_tokens)

    def give_back(self, slot: int, token_ids: tuple[int, ...]) -> None:
        """Free a slot that holds these tokens."""
        assert self._taken.pop(slot, None) is self
        self._free[slot] = token_ids
        self._writers[slot] = self

    def check_integrity(self, used: Collection[int]) -> None:
        """Assert the conservation law: free slots, kept or empty, and used ones are all slots."""
        assert sorted([*self._free, *self._taken]) == list(self._all)
        assert sorted(used) == sorted(slot for slot, by in self._taken.items() if by is self)


def shared_length(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """How many tokens two sequences begin with in common."""
    return next(compress(count(), map(ne, first, second)), min(len(first), len(second)))

"""Which rows of the cache are taken. Plain numbers: the tensors are in ``cache``."""

import heapq


class SlotPool:
    """Hands out the lowest free slot, so that running sequences stay close together."""

    def __init__(self, num_slots: int) -> None:
        if num_slots < 1:
            raise ValueError(f"num_slots must be positive, got {num_slots}")
        self._num_slots = num_slots
        self._free = list(range(num_slots))
        self._used: set[int] = set()

    @property
    def num_free(self) -> int:
        """Slots that can be taken now."""
        return len(self._free)

    def take(self) -> int:
        """Take the lowest free slot; the caller has seen that there is one."""
        slot = heapq.heappop(self._free)
        self._used.add(slot)
        return slot

    def give_back(self, slot: int) -> None:
        """Free a slot that is taken."""
        self._used.remove(slot)
        heapq.heappush(self._free, slot)

    def check_integrity(self) -> None:
        """Assert the conservation law: free and used slots are all slots, none in both."""
        assert sorted([*self._free, *self._used]) == list(range(self._num_slots))

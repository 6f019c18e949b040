"""Who is next: the queue of one model, fair to clients.

Running sequences get one token a step each, so a client's share of the decoding is its share of
the slots: next is the client that has the fewest, and among equals the one whose request came
first. A client's own requests keep their order. Every answer of a request counts: a body that asks
for 128 of them is 128 sequences of one client.
"""

from collections import deque
from collections.abc import Iterator, Mapping

from service.engine.scheduling.sequence import Sequence


class WaitingQueue:
    """Sequences without a slot, by client; a client without any takes no room."""

    def __init__(self) -> None:
        self._of: dict[str, deque[Sequence]] = {}
        self._count = 0
        self._next_number = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sequence]:
        for sequences in self._of.values():
            yield from sequences

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence behind all others of its client."""
        sequence.number = self._next_number
        self._next_number += 1
        self._of.setdefault(sequence.client, deque()).append(sequence)
        self._count += 1

    def put_back(self, sequence: Sequence) -> None:
        """Queue a sequence that lost its slot, where its arrival puts it."""
        sequences = self._of.setdefault(sequence.client, deque())
        place = next(
            (i for i, other in enumerate(sequences) if other.number > sequence.number),
            len(sequences),
        )
        sequences.insert(place, sequence)
        self._count += 1

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands."""
        sequences = self._of[sequence.client]
        sequences.remove(sequence)
        self._count -= 1
        if not sequences:
            del self._of[sequence.client]

    def first(self, num_running: Mapping[str, int]) -> Sequence:
        """Who is next, given how many slots each client has; the queue is not empty."""
        return min(
            (sequences[0] for sequences in self._of.values()),
            key=lambda sequence: (num_running.get(sequence.client, 0), sequence.number),
        )

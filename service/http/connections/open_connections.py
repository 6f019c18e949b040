"""All connections of one server: how many there may be, and who makes room for a newcomer.

One that waits for nothing of ours makes room. Where all are busy, a newcomer gets a place in a
small room beside, in which health and metrics alone are answered: who watches the service must not
take a busy one for a dead one. That room is small, its places are taken for a moment, and the
oldest makes room for the newest, so that nobody can fill it.
"""

from typing import Protocol

NUM_SPARE = 16
"""Places beside: probes of a node and of Prometheus, a few of each."""
NUM_LEAVING = 64
"""Connections that are being closed, and whose clients still read or send."""


class Member(Protocol):
    """A connection, as the others see it."""

    is_spare: bool
    """Whether it is in the room beside."""
    idle_since: float

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being done for it."""
        ...

    @property
    def is_leaving(self) -> bool:
        """Whether it is being closed."""
        ...

    def abort(self) -> None:
        """End it at once."""
        ...


class Crowd:
    """Connections in the order of their coming."""

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._members: dict[Member, None] = {}

    def __len__(self) -> int:
        return len(self._members)

    def add(self, newcomer: Member) -> None:
        """Let it in, in the room beside if all others are busy; somebody else may have to go."""
        self._members[newcomer] = None
        if len(self._members) <= self._max_connections:
            return
        leaving = [one for one in self._members if one.is_leaving]
        for one in leaving[: max(0, len(leaving) - NUM_LEAVING)]:
            one.abort()
        staying = [one for one in self._members if not one.is_leaving and not one.is_spare]
        if len(staying) <= self._max_connections:
            return
        idle = [one for one in staying if one.is_idle and one is not newcomer]
        if idle:
            min(idle, key=lambda one: one.idle_since).abort()
            return
        newcomer.is_spare = True
        spare = [one for one in self._members if one.is_spare and not one.is_leaving]
        if len(spare) > NUM_SPARE:
            spare[0].abort()

    def remove(self, member: Member) -> None:
        """It is gone."""
        self._members.pop(member, None)

import dataclasses

from service.http.connections.open_connections import NUM_LEAVING, NUM_SPARE, Crowd


@dataclasses.dataclass(eq=False)
class Someone:
    """A connection, as the crowd sees it."""

    idle_since: float = 0.0
    is_idle: bool = False
    is_leaving: bool = False
    is_spare: bool = False
    is_gone: bool = False

    def abort(self) -> None:
        self.is_leaving = self.is_gone = True


def full(max_connections: int = 3) -> tuple[Crowd, list[Someone]]:
    crowd, members = Crowd(max_connections), [Someone() for _ in range(max_connections)]
    for one in members:
        crowd.add(one)
    return crowd, members


def test_the_one_that_is_idle_for_longest_makes_room() -> None:
    crowd, members = full()
    members[0].is_idle = members[2].is_idle = True
    members[0].idle_since, members[2].idle_since = 5.0, 4.0
    newcomer = Someone(is_idle=True)
    crowd.add(newcomer)
    assert [one.is_gone for one in (*members, newcomer)] == [False, False, True, False]
    assert not newcomer.is_spare


def test_where_all_are_busy_a_newcomer_is_spare_and_the_oldest_spare_makes_room() -> None:
    crowd, members = full()
    newcomers = [Someone(is_idle=True) for _ in range(NUM_SPARE + 5)]
    for one in newcomers:
        crowd.add(one)
    assert all(one.is_spare for one in newcomers)
    assert [one.is_gone for one in newcomers] == [True] * 5 + [False] * NUM_SPARE
    assert not any(one.is_gone for one in members)


def test_those_that_are_closed_are_few() -> None:
    crowd, _ = full()
    closing = [Someone() for _ in range(NUM_LEAVING + 10)]
    for one in closing:
        crowd.add(one)
        one.is_leaving = True
    crowd.add(Someone())
    assert sum(one.is_gone for one in closing) == 10


def test_who_is_gone_makes_room() -> None:
    crowd, members = full()
    crowd.remove(members[0])
    crowd.remove(members[0])
    newcomer = Someone()
    crowd.add(newcomer)
    assert (len(crowd), newcomer.is_spare) == (3, False)

"""A worker on a test's desk: its clock stands still, and everything that it says is kept."""

from service.engine.request import Event, Finished, TokenGenerated
from service.engine.worker import Turn, Worker
from serving.waiting import wait_until


class Desk:
    """A worker, the clock that it reads, and everything it said."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns: list[Turn] = []
        self.worker = Worker(self.turns.append, lambda: self.now)

    def events(self, request_id: str) -> list[Event]:
        return [e for turn in list(self.turns) for e in turn.events if e.request_id == request_id]

    def token_ids(self, request_id: str) -> list[int]:
        return [e.token_id for e in self.events(request_id) if isinstance(e, TokenGenerated)]

    def end(self, request_id: str) -> Finished:
        """Wait for the one terminal event."""

        def finals() -> list[Event]:
            return [event for event in self.events(request_id) if event.is_final]

        wait_until(finals, f"{request_id} ends")
        (final,) = finals()
        assert isinstance(final, Finished)
        return final

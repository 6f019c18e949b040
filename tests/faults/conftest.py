from collections.abc import Iterator

import pytest
from forked_processes import Nursery
from trainer_process import SCRIPT


@pytest.fixture(scope="session")
def trainers() -> Iterator[Nursery]:
    """Starts trainers; see ``TrainerProcess``."""
    with Nursery.of(SCRIPT) as nursery:
        yield nursery

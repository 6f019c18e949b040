"""The measure itself: it sees a pause, an error and memory, or it would prove nothing."""

import signal
import time

import pytest
from serving import ServiceProcess, SteadyClient, assert_unhurt


def test_nothing_is_noticed_where_nothing_happens(steady: SteadyClient) -> None:
    alone = steady.alone()
    assert alone.tokens > 20
    assert_unhurt(steady.alone(), alone, settled_bytes=steady.resident_bytes())


def test_a_stopped_service_is_noticed(service: ServiceProcess, steady: SteadyClient) -> None:
    alone = steady.alone()

    def stop_for_a_while() -> None:
        service.signal(signal.SIGSTOP)
        time.sleep(max(0.5, 8 * alone.gap_s))
        service.signal(signal.SIGCONT)

    under = steady.during(stop_for_a_while)
    assert under.gap_s >= 0.5
    with pytest.raises(AssertionError, match="gap"):
        assert_unhurt(under, alone)


def test_kept_memory_is_noticed(steady: SteadyClient) -> None:
    alone = steady.alone(0.2)
    assert 50 * 2**20 < alone.resident_bytes <= alone.peak_bytes
    with pytest.raises(AssertionError, match="kept"):
        assert_unhurt(alone, alone, settled_bytes=2 * alone.resident_bytes)

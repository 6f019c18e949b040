"""One client's many answers leave room for another's one, and for streams that run.

Keys make clients of connections that all come from one address.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import ServiceProcess, SteadyClient, assert_unhurt

KEYS = {"NESTLING_API_KEYS": "greedy-key modest-key steady-key"}
GREEDY, MODEST, STEADY = "greedy-key", "modest-key", "steady-key"


@pytest.fixture(scope="module", params=["thread", "process"])
def keyed(volume: Path, request: pytest.FixtureRequest) -> Iterator[ServiceProcess]:
    """Few slots, and steps that take a while: who waits, waits long."""
    options = {"num_slots": 4, "engine": request.param, "environment": KEYS}
    delay = 0.005 if request.param == "thread" else 0.0  # the wrapper is of one process
    with ServiceProcess(volume, step_delay_s=delay, **options) as service:
        service.wait_serving("toy@1")
        yield service


def ask(service: ServiceProcess, key: str, **body: object) -> httpx.Response:
    return httpx.post(
        f"http://127.0.0.1:{service.port}/v1/completions",
        json={"prompt": "To be", "ignore_eos": True, **body},
        headers={"authorization": f"Bearer {key}"},
        timeout=60,
    )


def test_a_body_of_many_answers_lets_another_client_in(keyed: ServiceProcess) -> None:
    body = {"prompt": "To be", "n": 64, "max_tokens": 50, "ignore_eos": True, "stream": True}
    url = f"http://127.0.0.1:{keyed.port}/v1/completions"
    header = {"authorization": f"Bearer {GREEDY}"}
    with (
        SteadyClient(keyed, key=STEADY) as steady,
        httpx.stream("POST", url, json=body, headers=header, timeout=60) as flood,
    ):
        assert flood.status_code == 200
        lines = flood.iter_lines()
        next(lines)
        waits = []
        began = time.monotonic()
        for number in range(3):
            asked = time.monotonic()
            assert ask(keyed, MODEST, max_tokens=1, seed=number).status_code == 200
            waits.append(time.monotonic() - asked)
        greedy_s = 64 * 50 * 0.005 / 4
        assert max(waits) < max(1.0, greedy_s / 4), f"{waits}: as long as all of the other's"
        assert time.monotonic() - began < 10
        assert steady.alone(0.5).errors == ()
        ended = 0
        for line in lines:  # and who lost slots comes to its end
            ended += '"finish_reason":"length"' in line.replace(" ", "")
        assert ended == 64


def test_a_steady_stream_does_not_notice_it(keyed: ServiceProcess) -> None:
    with SteadyClient(keyed, key=STEADY) as steady:
        alone = steady.alone()
        under = steady.during(lambda: ask(keyed, GREEDY, n=32, max_tokens=20))
        assert_unhurt(under, alone)

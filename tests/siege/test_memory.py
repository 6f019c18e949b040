"""Memory after large bodies: it is given back, while a stream runs on."""

import concurrent.futures
import json
import time

import httpx
import pytest
from serving import ServiceProcess, SteadyClient

BODIES = (
    ("/generate", json.dumps({"prompt": "ab " * 330_000})),
    ("/v1/completions", json.dumps({"prompt": [1] * 330_000})),
    ("/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": "x"}] * 21_000})),
)
"""A megabyte each."""
SETTLES_S = 20.0


def send(service: ServiceProcess, count: int) -> None:
    """Send so many bodies of each kind at once."""

    def one(number: int) -> int:
        path, body = BODIES[number % len(BODIES)]
        headers = {"content-type": "application/json"}
        url = f"http://127.0.0.1:{service.port}{path}"
        return httpx.post(
            url, content=body, headers=headers, timeout=120, trust_env=False
        ).status_code

    with concurrent.futures.ThreadPoolExecutor(3 * count) as pool:
        assert all(status < 500 for status in pool.map(one, range(3 * count)))


@pytest.mark.parametrize("count", [4, pytest.param(12, marks=pytest.mark.slow)])
def test_memory_is_given_back(service: ServiceProcess, steady: SteadyClient, count: int) -> None:
    """The pause meanwhile is another kind; see the tests of bodies.

    What the first body of each kind has loaded (templates, caches) is no part of it.
    """
    send(service, 1)
    time.sleep(3.0)
    alone = steady.alone(0.5)
    bound = 1.1 * alone.resident_bytes + 16 * 2**20
    under = steady.during(lambda: send(service, count))
    assert under.errors == ()
    deadline = time.monotonic() + SETTLES_S
    while (kept := steady.resident_bytes()) > bound:
        assert time.monotonic() < deadline, f"{kept:,} bytes are kept; {alone}; {under}"
        time.sleep(0.2)

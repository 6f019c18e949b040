"""Long prompts beside streams: a chunk follows time. With SmolLM2, whose steps take a while."""

import asyncio
import statistics
import time
from collections.abc import Iterator

import httpx
import pytest
from serving import ServiceProcess, SteadyClient, assert_unhurt
from serving.released import Released

PROMPT = list(range(100, 8290))
STREAM_TOKENS = 4000
CLIENTS = 32
MAX_P99_S = 0.25

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smollm2(released: Released) -> Iterator[ServiceProcess]:
    options = {"dtype": "int8", "threads": 2}
    with ServiceProcess(released.volume, **options) as service:
        service.wait_serving(released.name)
        yield service


@pytest.mark.parametrize("echo", [False, True], ids=["prompt", "scored prompt"])
def test_a_long_prompt_does_not_hold_a_stream_up(smollm2: ServiceProcess, *, echo: bool) -> None:
    body = {"prompt": PROMPT, "max_tokens": 1}
    if echo:
        body |= {"prompt": PROMPT[:8189], "echo": True, "logprobs": 5}
    # One stream lasts for all of it: a newcomer's first token waits for two steps, as it should.
    with SteadyClient(smollm2, tokens=STREAM_TOKENS) as steady:
        alone = steady.alone()

        def attack() -> None:
            answer = smollm2.client.post("/v1/completions", json=body, timeout=300)
            assert answer.status_code == 200, answer.text[:500]

        assert_unhurt(steady.during(attack), alone)


def test_of_32_clients_at_once_nobody_waits_long_for_a_token(smollm2: ServiceProcess) -> None:
    gaps: list[float] = []

    async def stream(client: httpx.AsyncClient, number: int) -> None:
        prompt = [100 + (number * 997 + at * 31) % 40_000 for at in range(128)]
        body = {"prompt": prompt, "max_tokens": 64, "stream": True, "ignore_eos": True}
        last = None
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    now = time.monotonic()
                    gaps.extend([] if last is None else [now - last])
                    last = now

    async def all_at_once() -> None:
        url = f"http://127.0.0.1:{smollm2.port}"
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
            await asyncio.gather(*(stream(client, number) for number in range(CLIENTS)))

    asyncio.run(all_at_once())
    assert statistics.quantiles(gaps, n=100)[98] <= MAX_P99_S

"""Requests that cost more than they weigh: what is beside them goes on, and they are told why not.

The short dose is for the toy; the whole has the sizes at which each showed, for SmolLM2-135M.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from serving import ServiceProcess, SteadyClient, assert_unhurt
from serving.burst import abandon, answers, request_bytes, volley
from serving.released import Released
from serving.steady import touch_every_slot
from siege import costly

SHORT = 1 << 17
"""Bytes of a body in the short dose."""
REFUSED = {400, 413, 422}


@pytest.fixture(scope="module")
def large(released: Released) -> Iterator[ServiceProcess]:
    """SmolLM2-135M as it is served by default."""
    with ServiceProcess(released.volume, dtype="auto", threads=2) as service:
        service.wait_serving(released.name)
        touch_every_slot(service)
        yield service


def besiege(
    service: ServiceProcess, attack: Callable[[], object], record: Callable[[str, object], None]
) -> None:
    """Assert that a stream beside an attack does not notice it."""
    with SteadyClient(service) as steady:
        alone = steady.alone()
        record("alone", str(alone))
        under = steady.during(attack)
        record("under", str(under))
        settled = steady.alone(2.0)
        record("settled", str(settled))
        assert_unhurt(under, alone, settled_bytes=settled.resident_bytes)


def refused(service: ServiceProcess, requests: Sequence[bytes]) -> None:
    """Send one after another; none is answered."""
    for request in requests:
        (status,) = volley(service.port, [request])
        assert status in REFUSED, status


def ended_well(service: ServiceProcess, requests: Sequence[bytes]) -> None:
    """Send all at once; each is answered or told to come again."""
    statuses = volley(service.port, requests)
    assert set(statuses) <= {200, 429, *REFUSED}, statuses


def small(number: int) -> bytes:
    return request_bytes("/generate", {"prompt": f"{number} " * 60, "max_new_tokens": 1})


DOSES: dict[str, Callable[[ServiceProcess], None]] = {
    "answers": lambda service: refused(service, costly.too_many_answers()),
    "errors": lambda service: refused(service, [*costly.wrong_everywhere(SHORT).values()]),
    "texts": lambda service: refused(service, [*costly.long_texts(SHORT).values()]),
    "messages": lambda service: refused(service, [costly.messages(3000)]),
    "schemas": lambda service: refused(
        service, [costly.structured(costly.schema(1, 1 << 17)) for _ in range(3)]
    ),
    "together": lambda service: ended_well(service, [small(number) for number in range(110)]),
}


@pytest.mark.parametrize("kind", DOSES)
def test_a_short_dose_is_not_noticed(
    service: ServiceProcess, kind: str, record_property: Callable[[str, object], None]
) -> None:
    besiege(service, lambda: DOSES[kind](service), record_property)


WHOLES: dict[str, Callable[[ServiceProcess], object]] = {
    "500 prompts of 128 answers": lambda service: volley(
        service.port, costly.too_many_answers()[:1]
    ),
    "2,000 prompts": lambda service: volley(service.port, costly.too_many_answers()[2:]),
    **{
        f"1 MB: {name}": lambda service, request=request: volley(service.port, [request])
        for name, request in (costly.wrong_everywhere() | costly.long_texts()).items()
    },
    "20,000 messages": lambda service: volley(service.port, [costly.messages(20_000)]),
    "4,000 messages": lambda service: volley(service.port, [costly.messages(4000)]),
    "110 prompts": lambda service: abandon(  # their steps are not what is asked about
        service.port,
        [costly.prompt_under_the_limit(number) for number in range(110)],
        after_s=3.0,
    ),
    "110 bodies of 1 MB": lambda service: ended_well(
        service, [costly.wrong_everywhere()["prompts"]] * 110
    ),
    "7 abandoned schemas of 700 KB": lambda service: abandon_and_ask(service, 700_000, 7),
    "20 abandoned schemas of 40 KB": lambda service: abandon_and_ask(service, 40_000, 20),
    "12 schemas at once": lambda service: ended_well(
        service, [costly.structured(costly.schema(number, 20_000)) for number in range(12)]
    ),
}


def abandon_and_ask(service: ServiceProcess, size: int, number: int) -> None:
    """Leave schemas behind; a chat of somebody else is answered soon."""
    requests = [costly.structured(costly.schema(one, size)) for one in range(number)]
    abandon(service.port, requests)
    began = time.monotonic()
    statuses = volley(service.port, [costly.structured(costly.schema(1000, 200))])
    assert statuses == [200]
    assert time.monotonic() - began < 10, "what nobody waits for is in the way"


@pytest.mark.slow
@pytest.mark.parametrize("kind", WHOLES)
def test_the_whole_is_not_noticed(
    large: ServiceProcess, kind: str, record_property: Callable[[str, object], None]
) -> None:
    besiege(large, lambda: WHOLES[kind](large), record_property)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (costly.too_many_answers()[0], "n"),
        (costly.too_many_answers()[1], "prompt"),
        (costly.messages(5000), "messages"),
        (costly.structured(costly.schema(1, 1 << 17)), "response_format"),
        (costly.wrong_everywhere(SHORT)["biases"], "logit_bias"),
        (costly.long_texts(SHORT)["words"], "prompt"),
    ],
    ids=["n", "prompt", "messages", "response_format", "logit_bias", "text"],
)
def test_the_field_that_is_too_much_is_named(
    service: ServiceProcess, request_: bytes, param: str
) -> None:
    ((status, body),) = answers(service.port, [request_])
    error = json.loads(body)["error"]
    assert status in REFUSED
    assert error["param"] == param

"""What all fuzzing of the service holds it to: it stays exact, quiet, small and without a bug."""

import contextlib
from collections.abc import Iterator

import psutil
from serving import ServiceProcess, wait_until

ADMIN_KEY = "key-of-the-fuzzers"
MAX_GROWTH_BYTES = 48 << 20
"""Of the service's memory: a leak of five kilobytes a request shows in ten thousand of them."""


@contextlib.contextmanager
def unharmed(service: ServiceProcess) -> Iterator[None]:
    """Whatever happens within, the service is afterwards what it was before."""
    process = psutil.Process(service.process.pid)
    before, size = seeded_text(service), process.memory_info().rss
    yield
    assert seeded_text(service) == before, "float64: to the last token"
    wait_until(lambda: service.metrics().value("num_requests_running") == 0, "nothing runs")
    assert service.metrics().value("num_requests_waiting") == 0
    assert service.metrics().value("kv_cache_usage_ratio") == 0
    outcomes = service.metrics().by_label("requests_total", "outcome")
    assert outcomes["error"] == outcomes["timeout"] == 0
    assert process.memory_info().rss - size < MAX_GROWTH_BYTES
    log = service.log()
    assert "Traceback" not in log, log[log.index("Traceback") - 300 :][:3000]
    assert '"level": "ERROR"' not in log


def seeded_text(service: ServiceProcess) -> str:
    """What a seed gives."""
    body = {"prompt": "To be", "max_new_tokens": 40, "seed": 11, "temperature": 0.8}
    answer = service.client.post("/generate", json=body)
    assert answer.status_code == 200
    text: str = answer.json()["text"]
    return text

"""One ``/metrics`` for all processes: the engine's own, and the sum of what HTTP processes count.

HTTP processes use prometheus-client's multiprocess mode: their counters lie in files of a
directory, so that what one has counted outlives it. They have no gauge, whose sum would mean
nothing, and no exemplars, which that mode does not have.
"""

import collections
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from service.observe.metrics import Metrics


class Sum(Collector):
    """Metrics of a registry with those of a directory added to them."""

    def __init__(self, own: CollectorRegistry, directory: Path) -> None:
        self._own = own
        self._others = MultiProcessCollector(None, str(directory))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        """Every metric once; samples of the same name and labels are one."""
        others = {metric.name: metric for metric in self._others.collect()}  # type: ignore[no-untyped-call]
        for metric in self._own.collect():
            other = others.get(metric.name)
            yield metric if other is None else _sum(metric, other)


class SharedMetrics(Metrics):
    """Metrics of the engine's process that are scraped together with HTTP processes' counters."""

    def __init__(self, directory: Path) -> None:
        super().__init__(time.time)
        self._sum = CollectorRegistry(auto_describe=False)
        self._sum.register(Sum(self._registry, directory))

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """Everything in the format that an ``Accept`` header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._sum), content_type


def _sum(one: Metric, other: Metric) -> Metric:
    total = Metric(one.name, one.documentation, one.type, one.unit)
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = collections.defaultdict(float)
    for sample in (*one.samples, *other.samples):
        values[sample.name, tuple(sorted(sample.labels.items()))] += sample.value
    total.samples = [Sample(name, dict(labels), value) for (name, labels), value in values.items()]
    return total

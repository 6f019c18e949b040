"""Reads Prometheus' text format with Prometheus' own parser."""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families


class Exposition:
    """Samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def value(self, name: str, labels: Mapping[str, str] | None = None) -> float:
        """The one sample of that name (without ``nestling_``) and these labels."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == f"nestling_{name}" and sample.labels == (labels or {})
        ]
        assert len(found) == 1, f"{name} {labels}: {len(found)} samples"
        return found[0]

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """Values of one name by one of its labels."""
        return {
            sample.labels[label]: sample.value
            for sample in self.samples
            if sample.name == f"nestling_{name}"
        }

    def total(self, name: str) -> float:
        """Sum over all labels."""
        return sum(sample.value for sample in self.samples if sample.name == f"nestling_{name}")

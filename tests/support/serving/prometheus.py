"""A real Prometheus with the configuration that compose mounts, on a test's own targets."""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml
from machine_tools import free_port, require_tool

from serving.waiting import wait_until

SHIPPED = Path(__file__).parents[3] / "docker" / "prometheus"
SCRAPE_INTERVAL_S = 0.5


class Prometheus:
    """Asks a running server."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=30)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query's result vector; fails with the server's own words."""
        answer = self.client.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def value(self, expression: str) -> float:
        """The one value of a query."""
        result = self.query(expression)
        assert len(result) == 1, f"{expression}: {result}"
        return float(result[0]["value"][1])

    def query_range(
        self, expression: str, start: float, end: float, step: float
    ) -> list[dict[str, Any]]:
        """A range query's series."""
        params = {"query": expression, "start": str(start), "end": str(end), "step": str(step)}
        answer = self.client.get("/api/v1/query_range", params=params).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def wait_for(self, expression: str, value: float) -> None:
        """Wait until a query has this one value."""
        wait_until(
            lambda: [float(one["value"][1]) for one in self.query(expression)] == [value],
            f"{expression} is {value}",
            timeout_s=60,
        )


@contextlib.contextmanager
def running_prometheus(directory: Path, targets: Mapping[str, str]) -> Iterator[Prometheus]:
    """Start Prometheus on the shipped jobs and rules, with another address for each job."""
    program = require_tool("prometheus", package="prometheus")
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": f"{SCRAPE_INTERVAL_S * 1000:.0f}ms"}
    config["rule_files"] = [str(SHIPPED / "alerts.yml")]
    assert {job["job_name"] for job in config["scrape_configs"]} >= set(targets)
    config["scrape_configs"] = [
        job | {"static_configs": [{"targets": [targets[job["job_name"]]]}]}
        for job in config["scrape_configs"]
        if job["job_name"] in targets
    ]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        program,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]
    with (directory / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        prometheus = Prometheus(f"http://{address}")
        try:
            wait_until(lambda: _is_ready(prometheus.client), "Prometheus is ready")
            yield prometheus
        finally:
            prometheus.client.close()
            process.terminate()
            process.wait()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").is_success
    except httpx.TransportError:
        return False

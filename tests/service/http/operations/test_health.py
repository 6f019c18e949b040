import importlib.metadata
from pathlib import Path

import httpx
import torch
from serving import Exposition, LiveService, toy_settings
from toys import publish_toy


def test_a_serving_service_is_alive_and_ready(client: httpx.Client) -> None:
    alive, ready = client.get("/healthz"), client.get("/readyz")
    assert (alive.status_code, alive.json()["status"]) == (200, "ok")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ready", "reason": None, "checkpoint": "toy@7"}


def test_an_empty_volume_is_alive_and_not_ready_with_the_reason(tmp_path: Path) -> None:
    with LiveService(toy_settings(tmp_path / "volume")) as service:
        assert service.client.get("/healthz").status_code == 200
        ready = service.client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["status"] == "not_ready"
        assert "no run with a complete checkpoint in volume yet" in ready.json()["reason"]
        assert service.client.get("/version").json()["checkpoint"] is None
        listed = service.client.get("/checkpoints").json()
        assert listed == {
            "run": None,
            "pinned": None,
            "problem": None,
            "left_out": {},
            "checkpoints": [],
        }
        publish_toy(tmp_path / "volume", "toy", 1)
        service.wait_ready()
        assert service.client.get("/readyz").json()["checkpoint"] == "toy@1"


def test_the_version_says_what_runs(client: httpx.Client) -> None:
    version = client.get("/version").json()
    assert version["version"] == importlib.metadata.version("nestling")
    assert version["torch"] == torch.__version__
    assert (version["device"], version["dtype"]) == ("cpu", "float64")
    assert version["checkpoint"]["name"] == "toy@7"
    assert (version["backend"], version["not_fused"]) == ("torch", None), "there is no GPU to use"
    assert version["num_slots"] == service_slots(client)


def service_slots(client: httpx.Client) -> float:
    """What the metric says of the same."""
    return Exposition(client.get("/metrics").text).value("engine_slots")


def test_metrics_are_what_prometheus_reads(service: LiveService) -> None:
    response = service.client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    exposition = Exposition(response.text)
    assert {sample.name.split("_")[0] for sample in exposition.samples} == {"nestling"}
    assert exposition.by_label("checkpoint_info", "step") == {"7": 1.0}
    assert exposition.value("checkpoint_step") == 7
    assert exposition.value("engine_slots") > 0
    assert exposition.value("engine_fused") == 0
    assert 0 <= exposition.value("checkpoint_age_seconds") < 600
    assert exposition.value("checkpoint_swaps_total") == 1

"""The manifests: valid, and what they promise about security, probes and draining."""

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from machine_tools import require_tool

from service.http.server import CLOSE_CONNECTIONS_S
from service.observe.metrics import Metrics
from service.settings.schema import Settings

FOLDER = Path(__file__).parents[2] / "docker" / "k8s"
VERSION = "1.31"
OPERATOR = "monitoring.coreos.com/v1"
"""Of a custom resource, for which Kubernetes has no schema."""


def documents() -> dict[str, dict[str, Any]]:
    """Manifests by kind and name."""
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    found = [
        document
        for name in kustomization["resources"]
        for document in yaml.safe_load_all((FOLDER / name).read_text())
    ]
    named = {f"{one['kind']}/{one['metadata']['name']}": one for one in found}
    assert len(named) == len(found)
    return named


ALL = documents()
PODS = {name: ALL[name]["spec"]["template"] for name in ("Job/trainer", "Deployment/service")}


def test_every_file_is_in_the_kustomization() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    images = {image["name"] for image in kustomization["images"]}
    assert {pod["spec"]["containers"][0]["image"] for pod in PODS.values()} == images


def test_kustomize_builds_all_of_it() -> None:
    program = require_tool("kubectl", package="kubernetes-client")
    done = subprocess.run([program, "kustomize", FOLDER], capture_output=True, timeout=60)
    built = list(yaml.safe_load_all(done.stdout))
    assert {f"{one['kind']}/{one['metadata']['name']}" for one in built} == set(ALL)
    assert {one["metadata"].get("namespace", "nestling") for one in built} == {"nestling"}


@pytest.mark.parametrize("name", [n for n, d in ALL.items() if d["apiVersion"] != OPERATOR])
def test_a_manifest_fits_the_schema_of_kubernetes(name: str) -> None:
    kubernetes_validate.validate(ALL[name], VERSION, strict=True)


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_locked_down(name: str) -> None:
    spec = PODS[name]["spec"]
    assert spec["enableServiceLinks"] is False
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    (container,) = spec["containers"]
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert "memory" in container["resources"]["limits"]


def test_the_service_reads_and_the_trainer_writes_as_other_users() -> None:
    users = {pod["spec"]["securityContext"]["runAsUser"] for pod in PODS.values()}
    assert users == {10001, 10002}
    mounts = PODS["Deployment/service"]["spec"]["containers"][0]["volumeMounts"]
    assert next(m for m in mounts if m["name"] == "models")["readOnly"] is True


def test_a_pod_may_live_as_long_as_it_drains() -> None:
    spec = PODS["Deployment/service"]["spec"]
    (container,) = spec["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    pre_stop = int(command[-1].removeprefix("import time; time.sleep(").removesuffix(")"))
    environment = {one["name"]: one["value"] for one in container["env"]}
    drain = float(environment["NESTLING_DRAIN_TIMEOUT_S"])
    grace = spec["terminationGracePeriodSeconds"]
    assert grace > pre_stop + drain + CLOSE_CONNECTIONS_S


def test_probes_tell_alive_from_ready() -> None:
    (container,) = PODS["Deployment/service"]["spec"]["containers"]
    paths = {
        probe: container[f"{probe}Probe"]["httpGet"]["path"]
        for probe in ("startup", "liveness", "readiness")
    }
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}


def test_variables_are_settings() -> None:
    (container,) = PODS["Deployment/service"]["spec"]["containers"]
    names = {one["name"].removeprefix("NESTLING_").lower() for one in container["env"]}
    assert names <= set(Settings.model_fields)


def test_the_autoscaler_asks_for_a_metric_that_exists() -> None:
    (metric,) = ALL["HorizontalPodAutoscaler/service"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert f"# TYPE {name} gauge" in Metrics(lambda: 0.0).exposition().decode()


def test_monitors_and_budgets_find_what_they_mean() -> None:
    labels = {pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in PODS.values()}
    selectors = [
        one["spec"].get("selector") or one["spec"].get("podSelector")
        for one in ALL.values()
        if "spec" in one
    ]
    asked = {
        (selector.get("matchLabels") or selector)["app.kubernetes.io/name"]
        for selector in selectors
        if selector
    }
    assert asked == labels
    ports = {
        port["name"] for pod in PODS.values() for port in pod["spec"]["containers"][0]["ports"]
    }
    monitored = {
        e["port"] for n, d in ALL.items() if "Monitor/" in n for e in d["spec"]["endpoints"]
    }
    assert monitored == ports

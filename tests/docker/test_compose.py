"""Dockerfile and compose files say what the pages promise; running them is for tests/containers."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from playground.__main__ import build_parser
from service.http.server import CLOSE_CONNECTIONS_S
from service.settings.schema import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
USERS = {"trainer": (10001, 10001), "service": (10002, 10001), "playground": (10003, 10003)}
"""And their groups: who reads the volume shares that of who writes it."""


def lint(program: str, *arguments: object) -> str:
    """What a linter of the development dependencies says."""
    path = Path(sys.executable).with_name(program)
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert lint("hadolint", ROOT / "Dockerfile") == ""


def test_compose_files_fit_compose_s_own_schema() -> None:
    files = sorted(ROOT.glob("compose*.yaml"))
    assert len(files) == 3
    assert lint("check-jsonschema", "--builtin-schema=vendor.compose-spec", *files) == ""


def stage(name: str) -> str:
    """Instructions of one stage."""
    found = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", USERS)
def test_an_image_runs_as_a_user_of_its_own_and_hears_signals(name: str) -> None:
    user, group = USERS[name]
    assert f"USER {user}:{group}" in stage(name)
    assert re.search(r'^ENTRYPOINT \["python", "-m"', stage(name), re.M), "exec form"
    assert "STOPSIGNAL SIGTERM" in stage("runtime")
    assert "STOPSIGNAL SIGINT" in stage("playground"), "which Python hears as process 1, too"
    assert all("apt-get" not in stage(one) for one in (name, "packages"))


def test_only_images_for_cuda_have_a_compiler() -> None:
    """Triton compiles what launches a kernel; those for CPUs are compiled with the image."""
    commands = re.findall(r"^RUN (.*?[^\\])$", stage("runtime"), re.M | re.S)
    (installing,) = (command for command in commands if "apt-get" in command)
    assert installing.startswith('if [ -z "${TORCH_INDEX}" ]; then')
    assert re.search(r"install .* gcc libc6-dev", installing)
    assert installing.rstrip().endswith("fi")


def test_health_is_being_alive() -> None:
    assert "/healthz" in stage("service")
    assert "/readyz" not in DOCKERFILE


def test_all_that_is_copied_is_sent_to_the_engine() -> None:
    sent = {line.strip("!/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)
        for source in line.split()[:-1]
    }
    assert copied
    assert copied <= sent


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_locked_down_and_seen_from_this_machine_alone(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "mem_limit" in service
    assert service["restart"] in ("unless-stopped", "on-failure")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert ":latest" not in service["image"]


def test_the_service_cannot_write_the_volume() -> None:
    assert SERVICES["service"]["volumes"] == ["models:/models:ro"]
    assert SERVICES["trainer"]["volumes"] == ["models:/models"]


def test_stopping_waits_for_draining_and_saving() -> None:
    grace = {
        name: int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        for name in ("trainer", "service")
    }
    drain: float = Settings.model_fields["drain_timeout_s"].default
    assert grace["service"] > drain + CLOSE_CONNECTIONS_S
    assert grace["trainer"] == 60


def test_only_the_playground_waits_for_a_checkpoint() -> None:
    waits = {
        name: {other: how["condition"] for other, how in service["depends_on"].items()}
        for name, service in SERVICES.items()
        if "depends_on" in service
    }
    assert waits == {
        "prometheus": {"service": "service_healthy"},
        "grafana": {"prometheus": "service_healthy"},
        "ready": {"service": "service_healthy"},
        "playground": {"ready": "service_completed_successfully"},
    }
    (asked,) = SERVICES["ready"]["command"]
    assert "http://service:8000/readyz" in asked


def test_the_playground_is_there_when_it_is_asked_for() -> None:
    asked_for = {name for name, service in SERVICES.items() if "profiles" in service}
    assert asked_for == {"playground", "ready"}
    keys = yaml.safe_load((ROOT / "compose.keys.yaml").read_text())["services"]["playground"]
    for command in (shipped_command("playground"), keys["command"]):
        call = build_parser().parse_args(command)
        assert (call.service, call.host, call.port) == ("http://service:8000", "0.0.0.0", 7860)
    assert str(call.api_key_file) == f"/run/secrets/{keys['secrets'][0]}"


def shipped_command(name: str) -> list[str]:
    """Arguments that an image passes by default."""
    found = re.search(r"^CMD (\[.+\])$", stage(name), re.M)
    assert found is not None
    return list(json.loads(found[1]))


def test_variables_are_settings_and_keys_are_secrets() -> None:
    names = [line.split("=")[0] for line in SERVICES["service"]["environment"]]
    keys = yaml.safe_load((ROOT / "compose.keys.yaml").read_text())
    names += [f"NESTLING_{name.removeprefix('nestling_').upper()}" for name in keys["secrets"]]
    assert {name.removeprefix("NESTLING_").lower() for name in names} <= set(Settings.model_fields)


def test_prometheus_scrapes_the_containers_that_there_are() -> None:
    config = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text())
    targets = {
        job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]
    }
    assert targets == {"service": ["service:8000"], "trainer": ["trainer:9100"]}
    assert "--metrics-port=9100" in SERVICES["trainer"]["command"]


def test_a_gpu_is_reserved_for_both_and_takes_other_wheels() -> None:
    gpu = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text())["services"]
    assert set(gpu) == {"trainer", "service"}
    for service in gpu.values():
        assert service["build"]["args"]["TORCH_INDEX"] == ""
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]

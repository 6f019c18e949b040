"""The dashboard: current, well formed, and every panel has something to show over a real run."""

import copy
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from machine_tools import free_port, require_tool
from serving import ServiceProcess, wait_until
from serving.prometheus import Prometheus, running_prometheus
from toy_run import toy_recipe

from lm.volume import newest_step

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "docker" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "nestling.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
KINDS = {"row", "timeseries", "heatmap", "stat"}
LOAD_S = 8.0


def queries() -> list[str]:
    asked = [target["expr"] for panel in PANELS for target in panel["targets"]]
    return [*asked, *(one["expr"] for one in DASHBOARD["annotations"]["list"])]


def load(name: str) -> ModuleType:
    """A script beside the dashboard, which is no package."""
    spec = importlib.util.spec_from_file_location(name, GRAFANA / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_file_is_what_the_script_makes() -> None:
    assert load("dashboard").text() == (GRAFANA / "dashboards" / "nestling.json").read_text()


def test_grafana_s_own_model_loses_nothing_of_it() -> None:
    register_default_plugins()
    again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(DASHBOARD)))

    def lost(ours: Any, theirs: Any, path: str) -> list[str]:
        if isinstance(ours, dict):
            return [
                p for k, v in ours.items() for p in lost(v, (theirs or {}).get(k), f"{path}.{k}")
            ]
        if isinstance(ours, list):
            return [p for n, v in enumerate(ours) for p in lost(v, theirs[n], f"{path}.{n}")]
        return [] if ours == theirs else [path]

    without_model = {f".annotations.list.0.target.{name}" for name in ("expr", "refId")}
    assert set(lost(DASHBOARD, again, "")) == without_model


@pytest.mark.slow
def test_grafana_s_own_types_take_it(tmp_path: Path) -> None:
    """Those that Grafana publishes on npm, which also know the types of values."""
    npm = require_tool("npm", package="npm")
    packages = ("typescript@5", "@grafana/schema@13")
    install = [npm, "install", "--silent", "--no-audit", "--no-fund", *packages]
    subprocess.run(install, cwd=tmp_path, check=True, timeout=120)
    typed = copy.deepcopy(DASHBOARD)
    del typed["style"]  # older Grafanas', which the SDK still writes
    for annotation in typed["annotations"]["list"]:  # what a data source asks is not typed
        del annotation["expr"], annotation["target"]["expr"]
    board = json.dumps(typed)
    for changed, rc in ((board, 0), (board.replace('"h": 8', '"h": "8"', 1), 2)):
        source = f'import {{Dashboard}} from "@grafana/schema";\n({changed}) satisfies Dashboard;'
        (tmp_path / "board.mts").write_text(source)
        compiler = [tmp_path / "node_modules/.bin/tsc", "--noEmit", "--strict", "--skipLibCheck"]
        done = subprocess.run(
            [*compiler, "--module", "nodenext", "board.mts"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == rc, done.stdout


def test_panels_are_of_known_kinds_and_ask_the_provisioned_source() -> None:
    assert {panel["type"] for panel in DASHBOARD["panels"]} == KINDS
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())
    (provisioned,) = source["datasources"]
    assert {panel["datasource"]["uid"] for panel in PANELS} == {provisioned["uid"]}
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Service", "Engine", "Volume", "Trainer"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_compose_mounts_what_the_provisioning_names() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    mounts = dict(m.split(":")[:2] for m in compose["services"]["grafana"]["volumes"])
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/nestling.yaml").read_text())
    (one,) = provider["providers"]
    assert mounts["./docker/grafana/dashboards"] == one["options"]["path"]
    assert mounts["./docker/grafana/provisioning"] == "/etc/grafana/provisioning"
    home = compose["services"]["grafana"]["environment"]
    assert (
        home["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        == f"{one['options']['path']}/nestling.json"
    )


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has watched a trainer, a service under load, a swap and a refusal."""
    directory = tmp_path_factory.mktemp("watched")
    volume = directory / "volume"
    recipe = directory / "toy.yaml"
    changes = ("phases.0.steps=1000000", "cadence.checkpoint_every=40", "cadence.eval_every=20")
    recipe.write_text(yaml.safe_dump(toy_recipe(*changes).to_dict()))
    port = free_port()
    command = [sys.executable, "-m", "trainer", f"--volume={volume}", f"--recipe={recipe}"]
    options = ["--run=toy", f"--metrics-port={port}", "--threads=1", "--nice=10"]
    with (directory / "log").open("w") as log:
        trainer = subprocess.Popen([*command, *options], cwd=ROOT, stdout=log, stderr=log)
    try:
        with ServiceProcess(volume, run="toy", num_slots=2, dtype="float32") as service:
            targets = {
                "service": f"127.0.0.1:{service.port}",
                "trainer": f"127.0.0.1:{port}",
            }
            wait_until(lambda: service.client.get("/readyz").is_success, "ready", timeout_s=120)
            with running_prometheus(directory, targets) as prometheus:
                prometheus.wait_for("sum(up)", 2)
                put_under_load(service, volume / "toy")
                yield prometheus
    finally:
        trainer.terminate()
        trainer.wait()


def put_under_load(service: ServiceProcess, run: Path) -> None:
    """Requests for a while, some of them refused; a checkpoint that is damaged."""
    newest = newest_step(run)
    assert newest is not None
    shutil.copytree(newest.path, run / ".tmp-damaged")
    (run / ".tmp-damaged" / "model.safetensors").write_bytes(b"")
    (run / ".tmp-damaged").rename(run / "step-00999999")
    end = time.monotonic() + LOAD_S
    while time.monotonic() < end:
        service.client.post("/generate", json={"prompt": "To be", "max_new_tokens": 8})
        service.client.post("/generate", json={"prompt": "To be", "model": "nobody@1"})
    wait_until(lambda: service.metrics().total("checkpoint_rejected_total"), "it is refused")
    swaps = service.metrics().value("checkpoint_swaps_total")
    wait_until(
        lambda: service.metrics().value("checkpoint_swaps_total") > swaps, "a swap", timeout_s=60
    )
    time.sleep(2)  # some scrapes more


@pytest.mark.slow
@pytest.mark.parametrize("expression", sorted(set(queries())))
def test_every_query_has_an_answer(watched: Prometheus, expression: str) -> None:
    asked = expression.replace("$__rate_interval", "8s")
    assert not re.search(r"\$\w+", asked)
    end = time.time()
    found = watched.query_range(asked, end - 60, end, 1)
    values = [float(value) for series in found for _, value in series["values"]]
    assert any(value == value for value in values), f"nothing but NaN: {values[:5]}"


@pytest.mark.slow
def test_the_picture_draws_all_of_it(
    watched: Prometheus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "dashboard.png"
    url = str(watched.client.base_url).rstrip("/")
    arguments = ["picture", url, str(output), "--minutes", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    load("picture").main()
    assert output.stat().st_size > 50_000

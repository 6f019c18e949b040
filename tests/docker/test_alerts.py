"""The alert rules: each has a case that fires, one that is silent, and a place in the runbook."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from machine_tools import require_tool
from prometheus_client import generate_latest

from service.observe.metrics import Metrics
from trainer.report.metrics import Metrics as TrainerMetrics

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "docker" / "prometheus"
CASES = Path(__file__).with_name("alerts_test.yml")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(*arguments: object) -> None:
    program = require_tool("promtool", package="prometheus")
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_configuration_and_its_rules() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_the_alerts_fire_and_are_silent_when_their_cases_say() -> None:
    promtool("test", "rules", CASES)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_case_that_fires_and_one_that_does_not(name: str) -> None:
    cases = [
        check
        for case in yaml.safe_load(CASES.read_text())["tests"]
        for check in case["alert_rule_test"]
        if check["alertname"] == name
    ]
    assert {bool(check.get("exp_alerts")) for check in cases} == {True, False}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_leads_to_a_heading_of_the_runbook(name: str) -> None:
    page, anchor = ALERTS[name]["annotations"]["runbook"].split("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    assert anchor in [heading.lower().replace(" ", "-") for heading in headings]


def test_the_rules_ask_for_metrics_that_exist() -> None:
    exposition = Metrics(lambda: 0.0).exposition() + generate_latest(TrainerMetrics().registry)
    families = re.findall(r"^# TYPE (\w+) (\w+)", exposition.decode(), re.MULTILINE)
    series = {f"{name}_bucket" if kind == "histogram" else name for name, kind in families}
    asked = {name for rule in rules() for name in re.findall(r"\bnestling_\w+", rule["expr"])}
    assert asked
    assert asked - series == set()

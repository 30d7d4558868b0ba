"""What is shipped for Prometheus is accepted by it, tested by it, and names metrics that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.api_world import api_world, client_of
from tests.monitoring import DEPLOY, needs, promtool
from tierd.cli.program import program

FILES = DEPLOY / "prometheus"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FILES / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
RECORDS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FILES / "rules.yml").read_text())["groups"] for rule in group["rules"]
]


def metrics_named(expr: str) -> set[str]:
    """The metrics of tierd in a query; those that rules record have colons."""
    return set(re.findall(r"\btierd_\w+(?!\w*:)", re.sub(r"tierd:[\w:]+", "", expr)))


@needs("promtool")
def test_prometheus_accepts_the_files(tmp_path: Path) -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", FILES / "rules.yml", FILES / "alerts.yml")
    token = tmp_path / "token"
    token.write_text("secret")
    scrape = tmp_path / "prometheus.yml"
    scrape.write_text((FILES / "scrape.yml").read_text().replace("/etc/prometheus/tierd.token", str(token)))
    promtool("check", "config", "--lint=all", "--lint-fatal", scrape)


@needs("promtool")
def test_each_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", FILES / "alerts_test.yml")


@pytest.mark.parametrize("alert", [rule["alert"] for rule in ALERTS])
def test_an_alert_has_a_runbook_and_is_tested_both_ways(alert: str) -> None:
    rule = next(rule for rule in ALERTS if rule["alert"] == alert)
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"RUNBOOKS.md#{alert.lower()}"
    sections = re.split(r"^## ", (FILES / "RUNBOOKS.md").read_text(), flags=re.MULTILINE)
    section = next(section for section in sections if section.splitlines()[0] == alert)
    assert len(section) > 100
    tests = yaml.safe_load((FILES / "alerts_test.yml").read_text())["tests"]
    expected = [case["exp_alerts"] for test in tests for case in test["alert_rule_test"] if case["alertname"] == alert]
    assert any(expected), "no case in which it fires"
    assert not all(expected), "no case in which it does not fire"


def test_rules_use_only_metrics_that_the_daemon_has(tmp_path: Path) -> None:
    with api_world(tmp_path) as world, client_of(world) as client:
        client.get("/v1/status")
        families = list(text_string_to_metric_families(client.get("/metrics").text))
    # Names as families and as samples: one without samples now, like failures, has only the former.
    known = {f.name for f in families} | {f"{f.name}_total" for f in families if f.type == "counter"}
    known |= {sample.name for family in families for sample in family.samples}
    for rule in (*ALERTS, *RECORDS):
        used = metrics_named(rule["expr"])
        assert used <= known, f"{rule}: {used - known}"
    recorded = {rule["record"] for rule in RECORDS}
    for rule in ALERTS:
        assert set(re.findall(r"tierd:[\w:]+", rule["expr"])) <= recorded


def test_runbooks_name_only_commands_that_exist() -> None:
    text = (FILES / "RUNBOOKS.md").read_text() + (FILES / "alerts.yml").read_text()
    named = set(re.findall(r"\btierd ([a-z][a-z-]+)(?: ([a-z][a-z-]+))?[^`\n]*`", text))
    assert named
    for verb, below in named:
        command = program.commands.get(verb)
        assert command is not None, f"tierd {verb}"
        assert not isinstance(command, click.Group) or below in command.commands, f"tierd {verb} {below}"

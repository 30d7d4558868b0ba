"""Real Prometheus and Alertmanager on a real daemon at work: panels show something, and alerts reach people."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.acceptance.daemon_process import DaemonProcess
from tests.dashboard import queries
from tests.monitoring import DEPLOY, Alertmanager, Prometheus, Webhook, needs, wait_until
from tests.seaweed import BUCKET, Seaweed, free_ports
from tests.world import s3_settings

pytestmark = needs("prometheus", "prometheus-alertmanager")

TOKEN = "token-of-prometheus"
MB = 1_000_000
_CLOUD = """
[[tiers]]
name = "cloud"
kind = "s3"
rank = 2
bucket = "{bucket}"
prefix = "{prefix}"
endpoint = "{endpoint}"
region = "us-east-1"
credentials = "{credentials}"

[tiers.prices]
currency = "EUR"
put = 0.005
get = 0.0004
retrieval = 0.0
egress = 0.09
storage = 0.02
"""


@dataclass
class Site:
    """A server that is watched."""

    daemon: DaemonProcess
    prometheus: Prometheus
    webhook: Webhook

    def firing(self) -> set[str]:
        found = self.prometheus.query('ALERTS{alertname=~"Tierd.+", alertstate="firing"}')
        return {series["metric"]["alertname"] for series in found}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, seaweed: Seaweed) -> Iterator[Site]:
    base = tmp_path_factory.mktemp("site")
    api, prometheus_port, alertmanager_port = free_ports(3)
    daemon = _daemon(base, seaweed, f"127.0.0.1:{api}")
    webhook = Webhook()
    stops = [webhook.close, daemon.close]
    try:
        daemon.start()
        alertmanager = Alertmanager(_alertmanager(base, webhook), alertmanager_port)
        stops.append(alertmanager.stop)
        prometheus = Prometheus(_prometheus(base, f"127.0.0.1:{api}", alertmanager_port), prometheus_port)
        stops.append(prometheus.stop)
        made = Site(daemon=daemon, prometheus=prometheus, webhook=webhook)
        wait_until(lambda: bool(prometheus.query("tierd_warms_total")), "tierd is scraped")
        yield made
    finally:
        for stop in reversed(stops):
            stop()


def _daemon(base: Path, seaweed: Seaweed, address: str) -> DaemonProcess:
    s3 = s3_settings(base, seaweed.endpoint)
    cloud = _CLOUD.format(bucket=BUCKET, prefix=s3.prefix, endpoint=s3.endpoint, credentials=s3.credentials)
    daemon = DaemonProcess(base, hdd_extra=cloud)
    text = daemon.config.read_text()
    text = text.replace('migrate_after = "never"', 'migrate_after = { cloud = "1s" }')
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    daemon.config.write_text(
        text.replace("[api]", f'[api]\nlisten = "{address}"') + f'\n[api.tokens]\n"{digest}" = "read"\n'
    )
    for name, size in (("v1", 12 * MB), ("v2", MB)):
        (daemon.dataset / name).mkdir()
        (daemon.dataset / name / "data").write_bytes(os.urandom(size))
    return daemon


def _prometheus(base: Path, address: str, alertmanager: int) -> Path:
    """The shipped files, with this machine's addresses, and intervals for those who have no time."""
    token = base / "tierd.token"
    token.write_text(TOKEN)
    text = (DEPLOY / "prometheus" / "scrape.yml").read_text()
    config = yaml.safe_load(text.replace("/etc/prometheus/tierd.token", str(token)).replace("127.0.0.1:8920", address))
    config["scrape_configs"][0] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    config["global"] = {"evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus" / "rules.yml"), str(base / "alerts.yml")]
    config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]}
    alerts = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    (base / "alerts.yml").write_text(re.sub(r"\bfor: \w+", "for: 1s", alerts))
    file = base / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


def _alertmanager(base: Path, webhook: Webhook) -> Path:
    text = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text()
    assert "http://127.0.0.1:9000/alerts" in text
    text = text.replace("http://127.0.0.1:9000/alerts", webhook.url)
    text = re.sub(r"group_(wait|interval): \w+", r"group_\1: 1s", text)
    file = base / "alertmanager.yml"
    file.write_text(text)
    return file


def test_every_panel_of_the_dashboard_shows_something_of_a_daemon_at_work(site: Site) -> None:
    daemon = site.daemon
    for name in ("v1", "v2"):
        daemon.wait_for_residency(f"ds/{name}", "premigrated")
        daemon.post(f"/v1/snapshots/ds/{name}/release")
        daemon.wait_for_residency(f"ds/{name}", "migrated")
        warmed = daemon.cli("warm", f"ds/{name}", "--wait", "--by", "1h", "--lease", "5m")
        assert warmed.returncode == 0, warmed.stderr
        (daemon.dataset / name / "data").read_bytes()
    daemon.get("/v1/snapshots/ds/none", check=False)

    def missing() -> list[str]:
        return [
            f"{title}: {expr}"
            for title, expr, empty in queries()
            if not site.prometheus.query_range(expr, since_s=10) and empty is None
        ]

    wait_until(lambda: not missing(), "every panel shows something", explain=lambda: "\n".join(missing()))
    recalls = site.prometheus.query('tierd_transfers_total{kind="recall", result="done"}')
    assert [series["value"][1] for series in recalls] == ["2"]
    # With an S3 tier that was used and has prices, these are not empty either.
    for expr in (e for _, e, empty in queries() if empty is not None and "S3 tier" in empty):
        assert site.prometheus.query_range(expr, since_s=10), expr


def test_nothing_fires_while_all_is_well(site: Site) -> None:
    wait_until(lambda: "unknown" not in site.prometheus.rules().values(), "every rule was evaluated")
    assert set(site.prometheus.rules().values()) == {"ok"}
    assert site.firing() <= {"TierdTrackerDegraded"}  # a file system without fanotify is no fault here


def test_an_offline_tier_reaches_the_webhook_and_so_does_its_return(site: Site) -> None:
    aside = site.daemon.hdd.rename(site.daemon.hdd.with_name("unplugged"))
    site.daemon.hdd.mkdir()
    wait_until(lambda: site.webhook.got("TierdTierOffline", "firing") is not None, "the alert reaches the webhook")
    alert = site.webhook.got("TierdTierOffline", "firing")
    assert alert is not None
    assert alert["labels"]["severity"] == "critical"
    assert alert["annotations"]["summary"] == f"tier hdd of {alert['labels']['instance']} is offline"
    assert alert["annotations"]["runbook"] == "RUNBOOKS.md#tierdtieroffline"
    assert "TierdTierOffline" in site.firing()

    site.daemon.hdd.rmdir()
    aside.rename(site.daemon.hdd)
    wait_until(lambda: site.webhook.got("TierdTierOffline", "resolved") is not None, "its end reaches the webhook")


def test_a_daemon_that_was_killed_reaches_the_webhook(site: Site) -> None:
    site.daemon.kill()
    wait_until(lambda: site.webhook.got("TierdDown", "firing") is not None, "the alert reaches the webhook")

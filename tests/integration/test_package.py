"""The Debian package under a real systemd: this machine's own tree, booted as a throw-away container."""

from __future__ import annotations

import shutil

import pytest

from tests.container import NEEDS, Ran, package, run_in_container

pytestmark = NEEDS

CONFIG = """
[[tiers]]
name = "flash"
root = "/srv/tierd-test/flash"
rank = 0

[[tiers]]
name = "hdd"
root = "/srv/tierd-test/hdd"
rank = 1

[[datasets]]
name = "data"
path = "/srv/tierd-test/flash/data"
"""

STEPS = """
files=/srv/tierd-test
mkdir -p $files/flash/data/v1 $files/hdd && echo kept >$files/flash/data/v1/file
dpkg -i /out/tierd.deb >&2; say install $?
say after-install "$(systemctl is-active tierd)"
cp /out/config.toml /etc/tierd/config.toml
systemctl enable --now tierd; say start $?
say notified "$(systemctl show tierd -p Type -p ActiveState --value | paste -sd,)"
say before "$(systemctl show tierd -p Before --value)"
old=$(pid); dpkg -i /out/tierd.deb >&2; say upgrade $?
say after-upgrade "$(systemctl is-active tierd)"
[ "$old" != "$(pid)" ]; say restarted $?
dpkg -r tierd >&2; say after-remove "$(systemctl is-active tierd)"
[ -e /etc/tierd/config.toml ] && [ -d /var/lib/tierd ]; say remove-keeps $?
dpkg -P tierd >&2; [ -e /etc/tierd ] || [ -e /var/lib/tierd ] || [ -e /opt/tierd ]; say purge-leaves $?
say file "$(cat $files/flash/data/v1/file)"
journalctl -u tierd --no-pager >/out/journal
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    out = tmp_path_factory.mktemp("out")
    shutil.copy(package(tmp_path_factory), out / "tierd.deb")
    (out / "config.toml").write_text(CONFIG)
    return run_in_container(out, STEPS)


def test_an_installation_starts_nothing_before_it_is_configured(facts: Ran) -> None:
    assert (facts["install"], facts["after-install"]) == ("0", "inactive")


def test_it_starts_and_says_that_it_is_ready(facts: Ran) -> None:
    assert (facts["start"], facts["notified"]) == ("0", "notify,active")


def test_slurm_waits_for_it(facts: Ran) -> None:
    assert "slurmd.service" in facts["before"].split()


def test_an_upgrade_restarts_it_with_its_catalog(facts: Ran) -> None:
    assert (facts["upgrade"], facts["after-upgrade"], facts["restarted"]) == ("0", "active", "0")


def test_removal_keeps_configuration_and_catalog_and_purge_does_not(facts: Ran) -> None:
    assert (facts["after-remove"], facts["remove-keeps"], facts["purge-leaves"]) == ("inactive", "0", "1")


def test_files_on_the_tiers_stay(facts: Ran) -> None:
    assert facts["file"] == "kept"

"""The Debian package under a real systemd: this machine's own tree, booted as a throw-away container."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="boots a container, needs root"),
    pytest.mark.skipif(shutil.which("systemd-nspawn") is None, reason="systemd-container is not installed"),
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg is not installed"),
]

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
exec 2>/out/trace; set -x
say() { echo "$1=$2" >>/out/facts; }
pid() { systemctl show tierd -p MainPID --value; }
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
def facts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    work = tmp_path_factory.mktemp("container")
    out, lower = work / "out", Path("/dev/shm") / f"tierd-package-{os.getpid()}"
    out.mkdir()
    built = subprocess.run(
        [REPOSITORY / "deploy/packaging/build-deb", out], check=True, capture_output=True, text=True
    ).stdout.strip()
    Path(built).rename(out / "tierd.deb")
    (out / "config.toml").write_text(CONFIG)
    (out / "steps").write_text(STEPS)
    for name in ("up", "work", "root"):
        (lower / name).mkdir(parents=True)
    root = lower / "root"
    options = f"lowerdir=/,upperdir={lower}/up,workdir={lower}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
    try:
        (root / "etc/machine-id").write_text("")
        (root / "out").mkdir()
        units = root / "etc/systemd/system"
        (units / "steps.service").write_text(
            "[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\nExecStart=/bin/bash /out/steps\n"
            "ExecStopPost=/bin/systemctl --no-block poweroff\n"
        )
        (units / "steps.target").write_text("[Unit]\nRequires=basic.target steps.service\n")
        command = ["systemd-nspawn", "-D", root, "--register=no", "--keep-unit", "--private-network"]
        command += ["--console=pipe", f"--bind={out}:/out", "--boot", "systemd.unit=steps.target"]
        environment = os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=True)
        yield dict(line.split("=", 1) for line in (out / "facts").read_text().splitlines())
    finally:
        subprocess.run(["umount", root], check=True)
        shutil.rmtree(lower)


def test_an_installation_starts_nothing_before_it_is_configured(facts: dict[str, str]) -> None:
    assert (facts["install"], facts["after-install"]) == ("0", "inactive")


def test_it_starts_and_says_that_it_is_ready(facts: dict[str, str]) -> None:
    assert (facts["start"], facts["notified"]) == ("0", "notify,active")


def test_slurm_waits_for_it(facts: dict[str, str]) -> None:
    assert "slurmd.service" in facts["before"].split()


def test_an_upgrade_restarts_it_with_its_catalog(facts: dict[str, str]) -> None:
    assert (facts["upgrade"], facts["after-upgrade"], facts["restarted"]) == ("0", "active", "0")


def test_removal_keeps_configuration_and_catalog_and_purge_does_not(facts: dict[str, str]) -> None:
    assert (facts["after-remove"], facts["remove-keeps"], facts["purge-leaves"]) == ("inactive", "0", "1")


def test_files_on_the_tiers_stay(facts: dict[str, str]) -> None:
    assert facts["file"] == "kept"

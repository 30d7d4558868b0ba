"""The systemd files are accepted by systemd itself, without a word."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
SERVICE = UNITS / "tierd.service"

EXPOSURE = 40
"""Tenths: 3.8 is reached. The rest is what tierd's work consists of (see the comments in the unit)."""

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory that has the service, its commands and the targets every service depends on."""
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    shutil.copy(SERVICE, units)
    for target in ("sysinit", "basic", "shutdown"):
        (units / f"{target}.target").write_text("[Unit]\nDescription=stands in for the real one\n")
    for command in ("usr/local/bin/tierd", "usr/bin/kill"):
        file = tmp_path / command
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
    return tmp_path


def verify(root: Path) -> subprocess.CompletedProcess[str]:
    return run("systemd-analyze", "verify", "--man=no", f"--root={root}", "tierd.service")


def test_the_service_is_accepted_without_a_word(root: Path) -> None:
    result = verify(root)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_misspelt_key_would_be_noticed(root: Path) -> None:
    unit = root / "etc/systemd/system/tierd.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSecs="))
    assert "WatchdogSecs" in verify(root).stderr


def test_the_best_access_tracking_is_allowed() -> None:
    """These calls are in none of the groups of ordinary services: refused, tierd would fall back in silence."""
    lines = [line for line in SERVICE.read_text().splitlines() if line.startswith("SystemCallFilter=")]
    allowed = {word for line in lines for word in line.partition("=")[2].split()}
    assert {"@system-service", "fanotify_init", "fanotify_mark", "open_by_handle_at"} == allowed
    assert not any(line.startswith("SystemCallFilter=~") for line in lines)


def test_the_service_is_hardened_as_far_as_its_work_allows() -> None:
    options = ("--no-pager", "--offline=true", f"--threshold={EXPOSURE}")
    result = run("systemd-analyze", "security", *options, SERVICE)
    if "unrecognized option" in result.stderr:
        pytest.skip("this systemd cannot judge a unit offline (needs 250)")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_service_may_do_what_a_faithful_copy_needs() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep the case of keys
    unit.read(SERVICE)
    service = unit["Service"]
    forbidding = {"PrivateDevices", "ProtectHome", "ProtectProc", "ProcSubset", "RestrictSUIDSGID", "PrivateUsers"}
    assert forbidding.isdisjoint(service)
    assert (service["Type"], service["KillMode"], service["StateDirectory"]) == ("notify", "mixed", "tierd")
    granted = " ".join(
        line.partition("=")[2] for line in SERVICE.read_text().splitlines() if line.startswith("CapabilityBoundingSet=")
    )
    needed = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID LEASE MKNOD SETFCAP SYS_ADMIN SYS_PTRACE"
    assert set(granted.split()) == {f"CAP_{name}" for name in needed.split()}


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_the_group_of_the_service_is_created(root: Path) -> None:
    result = run("systemd-sysusers", f"--root={root}", UNITS / "tierd.sysusers.conf")
    assert result.returncode == 0, result.stderr
    assert "tierd:x:" in (root / "etc/group").read_text()
    assert "Group=tierd" in SERVICE.read_text()


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="systemd-tmpfiles is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory to root")
def test_the_configuration_directory_is_created(root: Path) -> None:
    result = run("systemd-tmpfiles", "--create", f"--root={root}", UNITS / "tierd.tmpfiles.conf")
    assert (result.returncode, result.stderr) == (0, "")
    assert (root / "etc/tierd").is_dir()


def test_slurm_starts_jobs_only_after_tierd() -> None:
    assert "Before=slurmd.service" in SERVICE.read_text().splitlines()

"""What is in the packages: the same tree in both, and scripts that tell an upgrade from a removal."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.container import build_rpm, package, system_python, unpacked

DIRECTORIES = ("/opt", "/usr", "/etc")
INSTALLED = (
    "/etc/tierd",
    "/opt/tierd/bin/tierd",
    "/usr/bin/tierd",
    "/usr/lib/systemd/system/tierd.service",
    "/usr/lib/sysusers.d/tierd.conf",
    "/usr/lib/tmpfiles.d/tierd.conf",
    "/usr/share/bash-completion/completions/tierd",
    "/usr/share/doc/tierd/CHANGELOG.md",
    "/usr/share/doc/tierd/config.example.toml",
    "/usr/share/doc/tierd/copyright",
    "/usr/share/fish/vendor_completions.d/tierd.fish",
    "/usr/share/man/man1/tierd.1.gz",
    "/usr/share/man/man5/tierd.toml.5.gz",
    "/usr/share/man/man7/tierd.7.gz",
    "/usr/share/zsh/site-functions/_tierd",
)

pytestmark = [
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg is not installed"),
    pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpm is not installed"),
]


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(tmp_path_factory)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory)


@pytest.fixture(scope="module")
def rpm(staged: Path) -> Path:
    return build_rpm(staged, staged.parent)


def in_deb(deb: Path) -> dict[str, tuple[str, str]]:
    """Path → mode and owner."""
    found = {}
    for line in run("dpkg-deb", "-c", deb).splitlines():
        mode, owner, _, _, _, name = line.split(maxsplit=5)
        path = name.partition(" -> ")[0].removeprefix(".").rstrip("/")
        found[path] = (mode, owner)
    return found


def in_rpm(rpm: Path) -> dict[str, tuple[str, str]]:
    form = "[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]"
    lines = (line.split(" ", 2) for line in run("rpm", "-qp", "--qf", form, rpm).splitlines())
    return {path: (mode, owner) for mode, owner, path in lines}


def test_both_contain_the_same_with_the_same_modes_all_of_root(deb: Path, rpm: Path) -> None:
    debian, red_hat = in_deb(deb), in_rpm(rpm)
    # A .deb also lists the directories that the system has.
    assert set(red_hat) <= set(debian)
    assert all(debian[path][0].startswith("d") for path in set(debian) - set(red_hat))
    assert {path: facts for path, facts in debian.items() if path in red_hat} == red_hat
    assert {owner for _, owner in debian.values()} == {"root/root"}
    assert [path for path in INSTALLED if path not in red_hat] == []
    assert [path for path in red_hat if not path.startswith(DIRECTORIES)] == []
    writable = [path for path, (mode, _) in red_hat.items() if mode[0] != "l" and "w" in mode[4:]]
    assert writable == []


def test_nothing_names_the_place_where_it_was_built(staged: Path) -> None:
    text = ["opt/tierd/bin", "opt/tierd/pyvenv.cfg", "usr/share/bash-completion", "usr/share/zsh", "usr/share/fish"]
    found = subprocess.run(["grep", "-rlI", "/tmp/", *text], cwd=staged, capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_they_say_who_looks_after_them_and_which_python_they_need(deb: Path, rpm: Path) -> None:
    python = system_python()
    assert "root@" not in run("dpkg-deb", "-f", deb, "Maintainer") + run("rpm", "-qp", "--qf", "%{PACKAGER}", rpm)
    assert f"python3 (>= {python})" in run("dpkg-deb", "-f", deb, "Depends")
    needs = run("rpm", "-qpR", rpm).splitlines()
    assert f"python(abi) = {python}" in needs
    assert [need for need in needs if ".so" in need] == []  # its libraries are its own
    assert [line for line in run("rpm", "-qp", "--provides", rpm).splitlines() if not line.startswith("tierd")] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="rpm sets owners, needs root")
def test_the_rpm_installs_runs_and_leaves_the_configuration_when_it_is_removed(rpm: Path, tmp_path: Path) -> None:
    run("rpm", "--root", tmp_path, "-i", "--noscripts", "--nodeps", rpm)
    assert run(tmp_path / "opt/tierd/bin/python3", "-B", "-m", "tierd", "--version").startswith("tierd ")
    assert os.readlink(tmp_path / "usr/bin/tierd") == "/opt/tierd/bin/tierd"
    (tmp_path / "etc/tierd/config.toml").write_text("mine")
    run("rpm", "--root", tmp_path, "-e", "--noscripts", "tierd")
    assert (tmp_path / "etc/tierd/config.toml").read_text() == "mine"
    assert not (tmp_path / "opt/tierd").exists()


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_the_scripts_of_the_deb_are_shell(deb: Path, name: str) -> None:
    script = run("dpkg-deb", "-I", deb, name)
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("tag", "remaining", "done"),
    [
        (
            "POSTIN",
            1,
            ["systemd-sysusers tierd.conf", "systemd-tmpfiles --create tierd.conf", "systemctl daemon-reload"],
        ),
        (
            "POSTIN",
            2,
            ["systemd-sysusers tierd.conf", "systemd-tmpfiles --create tierd.conf", "systemctl daemon-reload"],
        ),
        ("PREUN", 1, []),
        ("PREUN", 0, ["systemctl disable --now tierd.service"]),
        ("POSTUN", 1, ["systemctl daemon-reload", "systemctl try-restart tierd.service"]),
        ("POSTUN", 0, ["systemctl daemon-reload"]),
    ],
)
def test_the_rpm_restarts_a_running_daemon_at_an_upgrade_and_stops_it_only_at_a_removal(
    rpm: Path, tmp_path: Path, tag: str, remaining: int, done: list[str]
) -> None:
    """What a script calls, with programs that only note it; `remaining` is how many versions are left afterwards."""
    calls = tmp_path / "calls"
    calls.touch()
    for name in ("systemctl", "systemd-sysusers", "systemd-tmpfiles"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{calls}\n')
        (tmp_path / name).chmod(0o755)
    script = run("rpm", "-qp", "--qf", f"%{{{tag}}}", rpm)
    script = re.sub(r"/run/systemd/system|/opt/tierd", str(tmp_path), script)
    (tmp_path / "script").write_text(script)
    run("/bin/sh", tmp_path / "script", str(remaining), PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert calls.read_text().splitlines() == done

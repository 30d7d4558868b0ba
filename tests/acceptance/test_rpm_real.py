"""The .rpm under a real dnf and a real systemd: installed, upgraded in the middle of its work, removed, back again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.container import AT_STOP, NEEDS, Ran, build_rpm, run_in_container, system_python, unpacked

pytestmark = [
    *NEEDS,
    pytest.mark.skipif(shutil.which("dnf") is None, reason="dnf is not installed"),
    pytest.mark.skipif(shutil.which("createrepo_c") is None, reason="createrepo-c is not installed"),
    pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpm is not installed"),
]

CONFIG = """
decide_interval = "0.5s"

[[tiers]]
name = "flash"
root = "/files/flash"
rank = 0

[[tiers]]
name = "hdd"
root = "/files/hdd"
rank = 1
write_rate = "RATE"

[[datasets]]
name = "data"
path = "/files/flash/data"

[defaults]
settle_after = "1s"
migrate_after = "never"
release_after = "never"

[mover]
busy_io = "off"
release_wait = "1s"
"""

SYSTEM = """
Name: system
Version: 1
Release: 1
Summary: What this machine has without the knowledge of rpm
License: Apache-2.0
BuildArch: noarch
Provides: python(abi) = VERSION
Provides: systemd
Provides: /bin/sh
%description
%files
"""
NAMES = ("tierd", "system", "newer")
REPOSITORIES = "".join(f"[{name}]\nname={name}\nbaseurl=file:///out/{name}\ngpgcheck=0\n" for name in NAMES)

STEPS = r"""
data=/files/flash/data
dnf_with() { dnf -y --setopt=reposdir=/out/repositories --repo="$1" "${@:2}" >>/out/dnf 2>&1; }
verify() { rpm -V tierd 2>&1 | paste -sd,; }
all_sums() { for name in v1 v2 v3; do sums $data/$name/; done; }
starts() { journalctl --sync; journalctl -u tierd TIERD_EVENT=daemon.started -o cat --no-pager | wc -l; }
copies() { find /files/hdd -size 2000000c -exec stat -c '%i %w' {} + | sort; }
service() { echo "$(systemctl is-active tierd),$(systemctl is-enabled tierd)"; }
rm -rf "$(rpm --eval %_dbpath)"

# --- refused, installed
dnf_with tierd install tierd; say refused $?; mv /out/dnf /out/refusal
[ -e /opt/tierd ]; say refused-leaves $?
dnf_with tierd,system install tierd; say install $?
cp /out/dnf /out/installation
say verify-install "$(verify)"
say after-install "$(service)"
say group "$(getent group tierd | cut -d: -f1)"
say directory "$(stat -c %a,%U,%G /etc/tierd)"
say program "$(tierd --version)"
say man "$(zcat /usr/share/man/man1/tierd.1.gz | head -1 | cut -d' ' -f1-3)"
say completion "$(bash -c 'source /usr/share/bash-completion/completions/tierd; complete -p tierd')"

# --- configured, started, at work
mkdir -p $data/v1/sub $data/v2 $data/v3
for n in 1 2; do head -c 50000 /dev/urandom >$data/v1/sub/shard$n; done
echo two >$data/v2/file
for n in {1..20}; do head -c 2000000 /dev/urandom >$data/v3/shard$n; done
all_sums >/out/sums
same() { all_sums | cmp - /out/sums >&2; }
cp /out/slow.toml /etc/tierd/config.toml
systemctl enable --now tierd; say start $?
say notified "$(systemctl show tierd -p Type -p ActiveState -p SubState --value | paste -sd,)"
say state "$(stat -c %a,%U /var/lib/tierd)"
until_true tierd migrate data/v1 --release --wait >&2; say release $?
say at-its-path "$(readlink $data/v1 | cut -d/ -f1-3)"
same; say bytes $?
tierd pin data/v2 >&2; tierd lease grant data/v2 --lease 8h >&2

# --- upgraded in mid-transfer
/opt/tierd/bin/python -c 'import tierd.former'; say former $?
until_true begin data/v3; id=$(begun)
until_true copying; say upgraded-while-copying $?
say version "$(ask /v1/status version)"
say starts-before "$(starts)"
copied_one() { copies >/out/copies; [ -s /out/copies ]; }
until_true copied_one
old=$(pid)
dnf_with tierd,system,newer upgrade; say upgrade $?
say after-upgrade "$(service)"
is_new; say upgrade-restarted $?
say version-after "$(ask /v1/status version)"
say starts-after "$(starts)"
until_true copying; say goes-on-after-upgrade $?
say verify-upgrade "$(verify)"
[ -e /opt/tierd/lib/python3*/site-packages/tierd/former ]; say former-is-left $?
say holds "$(ask /v1/status pins),$(ask /v1/status leases)"
cp /out/fast.toml /etc/tierd/config.toml; systemctl reload tierd
until_true ended; say transfer-ends $?
say copied-once "$(copies | comm -12 - /out/copies | wc -l)"
same; say bytes-after-upgrade $?
tierd migrate data/v3 --release --wait >&2
say v3-at-its-path "$(readlink $data/v3 | cut -d/ -f1-3)"

# --- removed
mkdir /etc/systemd/system/tierd.service.d
cp /out/at-stop.conf /etc/systemd/system/tierd.service.d/; systemctl daemon-reload
dnf_with tierd,system,newer remove tierd; say remove $?
say after-remove "$(systemctl is-active tierd)"
say enabled-after-remove "$(find /etc/systemd/system -name tierd.service)"
[ -e /root/at-stop.db ]; say compiled-at-stop $?
say left "$(find /opt/tierd /usr/bin/tierd /usr/lib/systemd/system/tierd.service /run/tierd 2>/dev/null | paste -sd,)"
cmp /etc/tierd/config.toml /out/fast.toml && [ -e /var/lib/tierd/tierd.db ]; say kept $?
same; say bytes-after-remove $?

# --- installed again
mv /out/dnf /out/earlier
dnf_with tierd,system,newer install tierd; say again $?
say after-again "$(service)"
say verify-again "$(verify)"
systemctl enable --now tierd; say start-again $?
tierd ls --json >/out/ls.json
say holds-again "$(ask /v1/status pins),$(ask /v1/status leases)"
same; say bytes-again $?
journalctl -u tierd -o cat --no-pager >/out/journal
"""


def repository(out: Path, name: str, tree: Path | None = None, *, release: int = 1) -> None:
    """A repository with one package: tierd of a tree, or what stands for the system."""
    place = out / name
    place.mkdir()
    if tree is not None:
        build_rpm(tree, place, release=release)
    else:
        (out / "system.spec").write_text(SYSTEM.replace("VERSION", system_python()))
        places = ["--define", f"_topdir {out}/build", "--define", f"_rpmdir {place}"]
        subprocess.run(["rpmbuild", "-bb", "--quiet", *places, out / "system.spec"], check=True)
    subprocess.run(["createrepo_c", "--quiet", place], check=True)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, ext4: Path) -> Ran:
    out, files = tmp_path_factory.mktemp("out"), ext4 / "rpm"
    for path in (files / "flash/data", files / "hdd"):
        path.mkdir(parents=True)
    files.chmod(0o755)
    newer = unpacked(tmp_path_factory)
    older = newer.with_name("older")
    subprocess.run(["cp", "-al", newer, older], check=True)
    (code,) = newer.glob("opt/tierd/lib/python3*/site-packages/tierd")
    version = (code / "__init__.py").read_text()
    (code / "__init__.py").unlink()  # the other tree shares its bytes
    (code / "__init__.py").write_text(re.sub('__version__ = "[^"]+', r"\g<0>.later", version))
    former = older / code.relative_to(newer) / "former"
    former.mkdir()
    (former / "__init__.py").write_text('"""Only the older build has it."""\n')
    with ThreadPoolExecutor() as pool:
        made = [pool.submit(repository, out, "tierd", older), pool.submit(repository, out, "newer", newer, release=2)]
        repository(out, "system")
    for future in made:
        future.result()
    (out / "repositories").mkdir()
    (out / "repositories/test.repo").write_text(REPOSITORIES)
    (out / "slow.toml").write_text(CONFIG.replace("RATE", "1 MB/s"))
    (out / "fast.toml").write_text(CONFIG.replace("RATE", "unlimited"))
    (out / "at-stop.conf").write_text(AT_STOP)
    return run_in_container(out, STEPS, binds={files: "/files"}, timeout_s=300)


def test_without_what_it_needs_dnf_refuses_and_names_it(ran: Ran) -> None:
    assert (ran["refused"], ran["refused-leaves"]) == ("1", "1")
    refusal = (ran.out / "refusal").read_text()
    for need in (f"python(abi) = {system_python()}", "systemd"):
        assert f"nothing provides {need} needed by tierd-" in refusal


def test_dnf_installs_it_with_its_dependencies(ran: Ran) -> None:
    assert ran["install"] == "0"
    assert ran["program"].startswith("tierd ")
    assert (ran["group"], ran["directory"]) == ("tierd", "755,root,root")
    assert ran["man"] == ".TH TIERD 1"
    assert ran["completion"].endswith(" tierd")


def test_an_installation_starts_nothing_and_says_what_to_do(ran: Ran) -> None:
    assert ran["after-install"] == "inactive,disabled"
    said = (ran.out / "installation").read_text()
    assert "write /etc/tierd/config.toml" in said
    assert "systemctl enable --now tierd" in said


def test_it_is_ready_when_the_start_returns_and_releases_to_the_second_tier(ran: Ran) -> None:
    assert (ran["start"], ran["notified"], ran["state"]) == ("0", "notify,active,running", "700,root")
    assert (ran["release"], ran["at-its-path"], ran["bytes"]) == ("0", "/files/hdd", "0")


def test_an_upgrade_restarts_it_once_and_it_is_the_newer_one(ran: Ran) -> None:
    assert (ran["upgrade"], ran["upgrade-restarted"], ran["after-upgrade"]) == ("0", "0", "active,enabled")
    assert (ran["starts-before"], ran["starts-after"]) == ("1", "2")
    assert ran["version-after"] == f"{ran['version']}.later"


def test_an_upgrade_keeps_holds_and_the_running_transfer(ran: Ran) -> None:
    assert ran["holds"] == "1,1"
    assert (ran["upgraded-while-copying"], ran["goes-on-after-upgrade"], ran["transfer-ends"]) == ("0", "0", "0")
    assert int(ran["copied-once"]) >= 1  # what was copied before is not copied again
    assert (ran["bytes-after-upgrade"], ran["v3-at-its-path"]) == ("0", "/files/hdd")


def test_an_upgrade_leaves_nothing_of_the_version_before(ran: Ran) -> None:
    assert (ran["former"], ran["former-is-left"]) == ("0", "1")


def test_rpm_finds_every_file_as_it_was_packed(ran: Ran) -> None:
    assert (ran["verify-install"], ran["verify-upgrade"], ran["verify-again"]) == ("", "", "")


def test_removal_stops_it_and_leaves_nothing_of_the_package(ran: Ran) -> None:
    assert (ran["remove"], ran["after-remove"], ran["enabled-after-remove"]) == ("0", "inactive", "")
    assert (ran["compiled-at-stop"], ran["left"]) == ("0", "")


def test_removal_keeps_configuration_and_catalog_and_every_byte_at_its_path(ran: Ran) -> None:
    assert (ran["kept"], ran["bytes-after-remove"]) == ("0", "0")


def test_installed_again_it_knows_what_it_knew(ran: Ran) -> None:
    assert (ran["again"], ran["after-again"], ran["start-again"]) == ("0", "inactive,disabled", "0")
    assert "write /etc/tierd/config.toml" not in (ran.out / "dnf").read_text()
    found = json.loads((ran.out / "ls.json").read_text())["items"]
    residencies = {snapshot["ref"]: snapshot["residency"] for snapshot in found}
    assert residencies == {"data/v1": "migrated", "data/v2": "resident", "data/v3": "migrated"}
    assert (ran["holds-again"], ran["bytes-again"]) == ("1,1", "0")


def test_no_script_fails_and_nothing_goes_wrong_in_the_journal(ran: Ran) -> None:
    told = "".join((ran.out / name).read_text() for name in ("earlier", "dnf")).lower()
    assert [
        line for line in told.splitlines() if "scriptlet fail" in line or "warning" in line or "error" in line
    ] == []
    journal = (ran.out / "journal").read_text()
    assert "Traceback" not in journal
    assert "Failed with result" not in journal

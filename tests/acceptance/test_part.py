"""Some files of a snapshot on flash, as a job asks for them; from the command to their deletion."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.daemon_process import DaemonProcess


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(tmp_path)
    root = tmp_path / "flash" / "datasets" / "ds" / "v1"
    for directory in ("train", "val"):
        (root / directory).mkdir(parents=True)
        for number in range(3):
            (root / directory / f"{number}.jpg").write_bytes(f"{directory}{number}".encode() * 999)
    daemon.start()
    yield daemon
    daemon.close()


def test_a_job_has_its_files_on_flash_until_its_lease_ends(daemon: DaemonProcess) -> None:
    daemon.wait_for_residency("ds/v1", "resident")
    daemon.wait_until(lambda: daemon.cli("release", "ds/v1").returncode == 0, "it is settled")
    daemon.wait_for_residency("ds/v1", "migrated")
    warmed = daemon.cli("warm", "ds/v1", "--only", "val", "--wait", "--lease", "1h")
    assert warmed.returncode == 0, warmed.stderr
    path = Path(warmed.stdout.strip())
    assert sorted(p.relative_to(path).as_posix() for p in path.rglob("*.jpg")) == [
        "val/0.jpg",
        "val/1.jpg",
        "val/2.jpg",
    ]
    assert (path / "val" / "2.jpg").read_bytes() == b"val2" * 999
    assert path.stat().st_dev == os.stat(daemon.base / "flash").st_dev
    assert daemon.snapshot("ds/v1")["residency"] == "migrated"
    assert f"part  val: 11.7 KiB at {path}, while the snapshot is held" in daemon.cli("explain", "ds/v1").stdout
    assert "recall of val to flash" in daemon.cli("transfers").stdout
    daemon.kill()
    daemon.start()
    again = daemon.cli("warm", "ds/v1", "--only", "val", "--json")
    assert f'"path": "{path}"' in again.stdout
    (path / "val" / "0.jpg").write_bytes(b"not what the snapshot has")
    other = daemon.cli("warm", "ds/v1", "--only", "val", "--wait")
    assert other.returncode == 0, other.stderr
    assert (Path(other.stdout.strip()) / "val" / "0.jpg").read_bytes() == b"val0" * 999
    refused = daemon.cli("warm", "ds/v1", "--only", "vla")
    assert (refused.returncode, "no file of the copy matches vla" in refused.stderr) == (4, True)
    for lease in daemon.get("/v1/leases").json()["items"]:
        daemon.request("DELETE", f"/v1/leases/{lease['id']}")
    daemon.wait_until(lambda: not list((daemon.flash / ".tierd-parts").glob("*/*")), "the parts are gone")
    assert not Path(other.stdout.strip()).exists()
    place = daemon.flash / ".tierd" / "kept"
    daemon.wait_until(lambda: len(list(place.iterdir())) == 1, "what nobody wrote to is deleted")
    (kept,) = place.iterdir()
    assert (kept / "val" / "0.jpg").read_bytes() == b"not what the snapshot has"
    assert daemon.snapshot("ds/v1")["residency"] == "migrated"


def test_of_what_is_at_home_on_a_slow_tier_and_was_never_copied(daemon: DaemonProcess) -> None:
    root = daemon.hdd / "archive" / "old"
    (root / "val").mkdir(parents=True)
    (root / "val" / "0.jpg").write_bytes(b"right" * 999)
    (root / "rest").write_bytes(b"not asked for")
    daemon.wait_until(lambda: "archive/old" in daemon.cli("ls").stdout, "it is found")
    warmed = daemon.cli("warm", "archive/old", "--only", "*.jpg", "--wait")
    assert warmed.returncode == 0, warmed.stderr
    path = Path(warmed.stdout.strip())
    assert [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()] == ["val/0.jpg"]
    assert (path / "val" / "0.jpg").read_bytes() == b"right" * 999
    assert (root / "rest").read_bytes() == b"not asked for"

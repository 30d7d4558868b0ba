"""The whole daemon as users meet it: a process, a socket, files."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.daemon_process import DaemonProcess
from tests.conftest import SmallMount
from tests.world import digest_tree


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(tmp_path)
    yield daemon
    daemon.close()


def _fill(root: Path, files: int = 30, size: int = 20_000) -> dict[str, tuple[object, ...]]:
    for number in range(files):
        path = root / f"d{number % 5}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    return digest_tree(root)


def test_a_cold_snapshot_leaves_flash_by_itself_and_a_warm_brings_it_back(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path, migrate_after="2s", release_after="4s")
    before = _fill(daemon.dataset / "v1")
    daemon.start()
    try:
        daemon.wait_for_residency("ds/v1", "migrated")
        path = daemon.dataset / "v1"
        assert path.is_symlink()
        assert digest_tree(path) == before
        answer = daemon.cli("warm", "ds/v1", "--wait", "--lease", "1h")
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout == f"{path}\n"
        assert not path.is_symlink()
        assert digest_tree(path) == before
        assert daemon.snapshot("ds/v1")["residency"] == "premigrated"
    finally:
        daemon.close()


def test_a_link_out_of_a_snapshot_keeps_it_home_and_never_keeps_it_away(daemon: DaemonProcess) -> None:
    _fill(daemon.dataset / "v1", files=3)
    _fill(daemon.dataset / "v2", files=3)
    daemon.start()
    daemon.wait_for_residency("ds/v1", "resident")
    daemon.wait_until(lambda: daemon.snapshot("ds/v1")["is_settled"], "settled")
    daemon.post("/v1/snapshots/ds/v1/migrate", {"release": True})
    daemon.wait_for_residency("ds/v1", "migrated")
    size = daemon.snapshot("ds/v1")["size_bytes"]
    daemon.stop()  # its start measures everything anew
    (daemon.dataset / "v1" / "other").symlink_to("../v2/d0")  # written through the link: it would hold at home alone
    (daemon.dataset / "v1" / "more").write_bytes(b"x")
    daemon.start()
    daemon.wait_until(lambda: daemon.snapshot("ds/v1")["size_bytes"] == size + 1, "it is measured where it is", 30)
    assert daemon.snapshot("ds/v1")["problem"] is None
    warmed = daemon.cli("warm", "ds/v1", "--wait")
    assert warmed.returncode == 0, warmed.stderr
    assert (daemon.dataset / "v1" / "other" / "f0").is_file()
    daemon.stop()
    daemon.start()
    daemon.wait_until(lambda: daemon.snapshot("ds/v1")["problem"] is not None, "the link is seen at home", 30)
    assert "relative link leads outside" in daemon.snapshot("ds/v1")["problem"]


def test_a_held_snapshot_stays_on_flash_until_its_lease_ends(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path, migrate_after="1s", release_after="1s")
    _fill(daemon.dataset / "v1", files=3)
    daemon.start()
    try:
        daemon.wait_until(lambda: daemon.get("/v1/snapshots/ds/v1", check=False).status_code == 200, "found")
        lease = daemon.post("/v1/leases", {"ref": "ds/v1", "lease_s": 3600}).json()
        daemon.wait_until(
            lambda: "held" in str(daemon.get("/v1/plan").json()["kept"].get("ds/v1", "")).lower(), "the plan says held"
        )
        assert daemon.post("/v1/snapshots/ds/v1/release", check=False).status_code == 409
        assert not (daemon.dataset / "v1").is_symlink()
        daemon.request("DELETE", f"/v1/leases/{lease['id']}")
        daemon.wait_for_residency("ds/v1", "migrated")
    finally:
        daemon.close()


def test_new_renamed_and_removed_snapshots_are_noticed(daemon: DaemonProcess) -> None:
    daemon.start()
    _fill(daemon.dataset / "v1", files=3)
    daemon.wait_for_residency("ds/v1", "resident")
    key = daemon.snapshot("ds/v1")["first_seen_at"]
    (daemon.dataset / "v1").rename(daemon.dataset / "v2")
    daemon.wait_for_residency("ds/v2", "resident")
    assert daemon.snapshot("ds/v2")["first_seen_at"] == key
    assert daemon.get("/v1/snapshots/ds/v1", check=False).status_code == 404
    subprocess.run(["rm", "-r", str(daemon.dataset / "v2")], check=True)
    daemon.wait_until(lambda: daemon.get("/v1/snapshots").json()["items"] == [], "it is not listed any more")
    assert daemon.snapshot("ds/v2")["residency"] == "gone"


def test_what_is_written_the_moment_a_snapshot_has_moved_is_noticed(daemon: DaemonProcess) -> None:
    root = daemon.flash / "datasets" / "ds" / "v1"
    root.mkdir(parents=True)
    (root / "file").write_bytes(b"x" * 1000)
    daemon.start()
    daemon.wait_for_residency("ds/v1", "resident")
    daemon.wait_until(lambda: daemon.cli("release", "ds/v1").returncode == 0, "it is settled")
    daemon.wait_for_residency("ds/v1", "migrated")
    (root / "new").write_bytes(b"y" * 5000)  # before the tracker watches the copy that the path leads to now
    daemon.wait_until(lambda: daemon.snapshot("ds/v1")["size_bytes"] == 6000, "it is measured")


def test_reads_and_writes_are_told_apart(daemon: DaemonProcess) -> None:
    _fill(daemon.dataset / "v1", files=3)
    daemon.start()
    daemon.wait_for_residency("ds/v1", "resident")
    assert daemon.snapshot("ds/v1")["read_at"] is None
    (daemon.dataset / "v1" / "d0" / "f0").read_bytes()
    daemon.wait_until(lambda: daemon.snapshot("ds/v1")["read_at"] is not None, "the read is known")
    assert daemon.snapshot("ds/v1")["written_at"] is None
    (daemon.dataset / "v1" / "d0" / "f0").write_bytes(b"new")
    daemon.wait_until(lambda: daemon.snapshot("ds/v1")["written_at"] is not None, "the write is known")


def test_a_read_while_the_daemon_was_down_is_caught_up(daemon: DaemonProcess) -> None:
    _fill(daemon.dataset / "v1", files=3)
    file = daemon.dataset / "v1" / "d0" / "f0"
    os.utime(file, (1_600_000_000, file.stat().st_mtime))
    daemon.start()
    daemon.wait_for_residency("ds/v1", "resident")
    daemon.stop()
    before = daemon.cli("--version")  # the daemon is down, the command line is not
    assert before.returncode == 0
    file.read_bytes()
    if file.stat().st_atime < time.time() - 3600:
        pytest.skip("this mount keeps no access times")
    daemon.start()
    daemon.wait_until(lambda: daemon.snapshot("ds/v1")["access_source"] == "atime", "the read is known from atime")


def test_sixty_four_ranks_share_one_transfer(daemon: DaemonProcess) -> None:
    before = _fill(daemon.dataset / "v1")
    daemon.start()
    daemon.wait_for_residency("ds/v1", "resident")
    daemon.wait_until(lambda: daemon.snapshot("ds/v1")["is_settled"], "settled")
    daemon.wait_for_transfer(daemon.post("/v1/snapshots/ds/v1/release").json()["id"])
    answers: list[dict[str, object]] = []

    def rank(number: int) -> None:
        answers.append(daemon.post("/v1/snapshots/ds/v1/warm", {"lease_s": 600, "holder": f"rank {number}"}).json())

    ranks = [threading.Thread(target=rank, args=(n,)) for n in range(64)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    assert len(answers) == 64
    transfers = {a["transfer"]["id"] for a in answers if a["transfer"]}  # type: ignore[index]
    assert len(transfers) <= 1
    daemon.wait_for_residency("ds/v1", "premigrated")
    assert len(daemon.get("/v1/leases").json()["items"]) == 64
    assert digest_tree(daemon.dataset / "v1") == before


# -- bad days ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_kill_9_of_the_daemon_at_a_random_moment_loses_nothing(tmp_path: Path, seed: int) -> None:
    daemon = DaemonProcess(tmp_path, migrate_after="0s", release_after="0s")
    before = {name: _fill(daemon.dataset / name, files=40, size=100_000) for name in ("v1", "v2")}
    big = daemon.dataset / "v3" / "big"
    big.parent.mkdir()
    big.write_bytes(os.urandom(64 << 20))
    before["v3"] = digest_tree(daemon.dataset / "v3")
    delay = random.Random(seed).uniform(0.2, 3.5)
    try:
        for _ in range(3):
            daemon.start()
            time.sleep(delay)  # a random moment is the point of this test
            daemon.kill()
            for name, facts in before.items():
                assert digest_tree(daemon.dataset / name) == facts, f"{name} after the kill"
        daemon.start()
        for name in before:
            daemon.wait_for_residency(f"ds/{name}", "migrated", timeout=90)
        for name, facts in before.items():
            assert digest_tree(daemon.dataset / name) == facts
        for root in (daemon.flash, daemon.hdd):
            daemon.wait_until(
                lambda root=root: not any(os.listdir(root / ".tierd" / p) for p in ("staging", "trash")), "no litter"
            )
    finally:
        daemon.close()


def test_sigterm_in_the_middle_of_a_copy_stops_soon_and_goes_on_later(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path, migrate_after="0s", hdd_extra='write_rate = "20 MB/s"')
    big = daemon.dataset / "v1" / "big"
    big.parent.mkdir()
    big.write_bytes(os.urandom(160 << 20))
    before = digest_tree(daemon.dataset / "v1")
    try:
        daemon.start()
        daemon.wait_until(
            lambda: any(t["bytes_done"] > 8 << 20 for t in daemon.get("/v1/transfers?live=true").json()["items"]),
            "the copy is under way",
        )
        assert daemon.stop() < 10
        assert any((daemon.hdd / ".tierd" / "staging").iterdir())
        daemon.settings["hdd_extra"] = ""
        daemon.write_config()
        daemon.start()
        daemon.wait_for_residency("ds/v1", "premigrated")
        assert digest_tree(daemon.hdd / "ds" / "v1") == before
    finally:
        daemon.close()


def test_a_second_daemon_on_the_same_database_is_refused(daemon: DaemonProcess) -> None:
    daemon.start()
    second = subprocess.run(
        [sys.executable, "-m", "tierd", "run", "--config", str(daemon.config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode != 0
    assert str(daemon.base / "tierd.db") in second.stderr
    assert "Traceback" not in second.stderr
    assert daemon.get("/healthz").status_code == 200


def test_a_missing_disk_is_off_line_and_nothing_is_written_or_forgotten(daemon: DaemonProcess) -> None:
    _fill(daemon.archive / "a1", files=3)
    _fill(daemon.dataset / "v1", files=3)
    daemon.start()
    daemon.wait_for_residency("archive/a1", "migrated")
    daemon.stop()
    daemon.hdd.rename(daemon.hdd.with_name("unplugged"))
    daemon.hdd.mkdir()
    daemon.start()
    tiers = {t["name"]: t for t in daemon.get("/v1/tiers").json()["items"]}
    assert not tiers["hdd"]["is_online"]
    assert "identity" in tiers["hdd"]["offline_reason"]
    assert daemon.snapshot("archive/a1")["residency"] == "migrated"
    assert list(daemon.hdd.iterdir()) == []
    daemon.hdd.rmdir()
    (daemon.hdd.with_name("unplugged") / "archive" / "a2").mkdir()
    daemon.hdd.with_name("unplugged").rename(daemon.hdd)
    daemon.wait_until(lambda: all(t["is_online"] for t in daemon.get("/v1/tiers").json()["items"]), "the disk is back")
    daemon.wait_for_residency("archive/a2", "migrated")


def test_sighup_takes_a_good_configuration_and_refuses_a_bad_one(daemon: DaemonProcess) -> None:
    daemon.start()
    assert daemon.process is not None
    daemon.settings["migrate_after"] = "99d"
    daemon.settings["release_after"] = "100d"
    daemon.write_config()
    daemon.process.send_signal(signal.SIGHUP)

    def policy() -> float | None:
        response = daemon.get("/v1/datasets/ds", check=False)
        return response.json()["policy"]["migrate_after_s"] if response.status_code == 200 else None

    daemon.wait_until(lambda: policy() == 99 * 86400, "the new policy is in force")
    daemon.config.write_text("this is not TOML [")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_until(lambda: "refused" in daemon.log.read_text(), "the log says refused")
    assert policy() == 99 * 86400


def test_a_configuration_that_cannot_be_run_gives_way_to_the_one_before(daemon: DaemonProcess) -> None:
    daemon.start()
    assert daemon.process is not None
    before = daemon.get("/v1/datasets/ds").json()["policy"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f'[api]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"'
        tokens = f'[api.tokens]\n"{"0" * 64}" = "read"\n'
        daemon.settings["migrate_after"] = "99d"
        daemon.settings["release_after"] = "100d"
        daemon.write_config()
        daemon.config.write_text(daemon.config.read_text().replace("[api]", listen) + tokens)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_until(lambda: "cannot be run" in daemon.log.read_text(), "the log says why")
        daemon.wait_until(lambda: daemon.get("/readyz", check=False).status_code == 200, "it runs again")
    assert daemon.get("/v1/datasets/ds").json()["policy"] == before


def test_a_stop_while_the_configuration_is_read_again_is_not_forgotten(daemon: DaemonProcess) -> None:
    daemon.start()
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_until(lambda: "configuration read again" in daemon.log.read_text(), "the one before ends")
    daemon.stop()


def test_rubbish_to_the_api_gets_clear_answers(daemon: DaemonProcess) -> None:
    daemon.start()
    for method, path, body in [
        ("GET", "/v1/snapshots/ds/nothing", None),
        ("GET", "/v1/snapshots/..%2f..%2fetc/passwd", None),
        ("POST", "/v1/snapshots/ds/x/warm", b"\xff\xfe"),
        ("POST", "/v1/leases", b'{"ref": 5}'),
        ("GET", "/v1/transfers/99999999999999999999", None),
        ("DELETE", "/v1/nowhere", None),
    ]:
        response = daemon.request(method, path, content=body, check=False)
        assert 400 <= response.status_code < 500, (path, response.status_code)
        assert response.headers["content-type"].startswith("application/problem+json"), path
        assert "Traceback" not in response.text
        assert {"title", "status", "code", "detail"} <= response.json().keys()
    assert daemon.get("/healthz").status_code == 200


def test_systemd_is_told_ready_alive_reloading_and_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.bind(str(tmp_path / "notify"))
    channel.settimeout(60)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

    def until(word: str) -> list[str]:
        heard = []
        while not heard or word not in heard[-1]:
            heard.append(channel.recv(4096).decode())
        return heard

    daemon = DaemonProcess(tmp_path)
    daemon.start()
    assert daemon.process is not None
    until("READY=1")
    until("WATCHDOG=1")
    daemon.process.send_signal(signal.SIGHUP)
    heard = until("RELOADING=1") + until("READY=1")
    assert not any("STOPPING" in message for message in heard)  # systemd would wait for an end that does not come
    daemon.process.send_signal(signal.SIGTERM)
    until("STOPPING=1")
    assert daemon.process.wait(30) == 0
    channel.close()


def test_a_warmed_snapshot_is_not_taken_for_a_changed_one(daemon: DaemonProcess) -> None:
    _fill(daemon.dataset / "v1", files=5)
    daemon.start()
    daemon.wait_for_residency("ds/v1", "resident")
    daemon.wait_until(lambda: daemon.snapshot("ds/v1")["is_settled"], "settled")
    changed_at = daemon.snapshot("ds/v1")["changed_at"]
    daemon.wait_for_transfer(daemon.post("/v1/snapshots/ds/v1/release").json()["id"])
    assert daemon.cli("warm", "ds/v1", "--wait").returncode == 0
    daemon.stop()
    daemon.start()  # measures everything again
    assert daemon.snapshot("ds/v1")["changed_at"] == changed_at
    assert daemon.snapshot("ds/v1")["residency"] == "premigrated"


@pytest.mark.mounts
def test_above_the_high_watermark_the_coldest_leave_until_the_low_one(tmp_path: Path, small_mount: SmallMount) -> None:
    flash = small_mount("ext4", size_mb=128)
    daemon = DaemonProcess(tmp_path, flash=flash, flash_extra='high = "60%"\nlow = "50%"')
    names = [f"v{number}" for number in range(5)]
    try:
        for name in names:
            (daemon.dataset / name).mkdir(parents=True)
            (daemon.dataset / name / "f").write_bytes(os.urandom(8 << 20))
        daemon.start()
        for name in ("v3", "v4", "v0"):  # v1 and v2 are the coldest
            (daemon.dataset / name / "f").read_bytes()
            daemon.wait_until(lambda name=name: daemon.snapshot(f"ds/{name}")["read_at"] is not None, "it was read")
        daemon.wait_until(lambda: all(daemon.snapshot(f"ds/{name}")["is_settled"] for name in names), "all settle")
        assert daemon.get("/v1/transfers").json()["items"] == []

        def used() -> float:
            fs = os.statvfs(flash)
            taken = fs.f_blocks - fs.f_bfree
            return taken / (taken + fs.f_bavail)

        with (flash / "filler").open("wb", buffering=0) as filler:
            while used() <= 0.61:
                filler.write(os.urandom(1 << 20))
        daemon.wait_for_residency("ds/v1", "migrated")
        daemon.wait_for_residency("ds/v2", "migrated")
        daemon.wait_until(lambda: used() <= 0.5, "the low watermark is reached")
        stay = {name for name in names if daemon.snapshot(f"ds/{name}")["residency"] == "resident"}
        assert stay == {"v0", "v3", "v4"}
    finally:
        daemon.close()


def test_a_warm_that_can_never_fit_is_refused_with_the_reason(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path, flash_extra='capacity = "1 MiB"')
    (daemon.archive / "a1").mkdir()
    (daemon.archive / "a1" / "f").write_bytes(os.urandom(2 << 20))
    daemon.start()
    try:
        daemon.wait_for_residency("archive/a1", "migrated")
        answer = daemon.cli("warm", "archive/a1", "--wait")
        assert answer.returncode == 6
        assert "2 MiB" in answer.stderr
        assert "1 MiB" in answer.stderr
        fallback = daemon.cli("warm", "archive/a1", "--wait", "--fallback")
        assert fallback.returncode == 0
        assert fallback.stdout == f"{daemon.archive / 'a1'}\n"
    finally:
        daemon.close()


def test_without_a_daemon_the_message_says_what_was_tried(daemon: DaemonProcess) -> None:
    answer = daemon.cli("status")
    assert answer.returncode == 3
    assert str(daemon.base / "api.sock") in answer.stderr
    assert "Traceback" not in answer.stderr

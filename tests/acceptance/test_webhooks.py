"""A real daemon tells a real receiver: over restarts, kill -9, a reload, and a receiver that hangs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.acceptance.daemon_process import DaemonProcess
from tests.receiver import KEY, SECRET, Receiver, receiver, secret_file

HOOK = """
[[webhook]]
name = "{name}"
url = "{url}"
secret_file = "{secret}"
events = ["snapshot.found", "daemon.*"]
timeout = "{timeout}"
"""


def hook(there: Receiver, tmp_path: Path, name: str = "ops", timeout: str = "30s") -> str:
    return HOOK.format(name=name, url=there.url, secret=secret_file(tmp_path), timeout=timeout)


def add(daemon: DaemonProcess, name: str) -> None:
    (daemon.dataset / name).mkdir()
    (daemon.dataset / name / "file").write_bytes(b"x")


def refs(there: Receiver) -> list[str]:
    return [e["ref"] for e in there.taken() if e["kind"] == "snapshot.found"]


def wanted(daemon: DaemonProcess) -> list[int]:
    events = daemon.get("/v1/events?limit=1000&after=0").json()["items"]
    return [e["id"] for e in events if e["kind"] == "snapshot.found" or e["kind"].startswith("daemon.")]


def test_every_event_arrives_over_restarts_kills_and_reloads(tmp_path: Path) -> None:
    with receiver() as there, receiver() as other:
        daemon = DaemonProcess(tmp_path, schedules=hook(there, tmp_path))
        try:
            daemon.start()
            add(daemon, 'v1 "}],{é')
            there.wait_for(lambda: refs(there) == ['ds/v1 "}],{é'], "the first one came")

            # Killed while the receiver has it and has not answered.
            there.otherwise = (0, {})
            add(daemon, "v2")
            there.wait_for(lambda: there.hanging == 1, "it hangs")
            daemon.kill()
            there.otherwise = (200, {})
            daemon.start()
            there.wait_for(lambda: "ds/v2" in refs(there), "it is sent again")
            hung = next(got for got in there.got if got.answered == 0)
            again = [got for got in there.got if got.headers["webhook-id"] == hung.headers["webhook-id"]]
            assert [got.answered for got in again] == [0, 200]
            assert again[0].content == again[1].content

            # Stopped while it hangs: at once, and nothing is lost.
            there.otherwise = (0, {})
            add(daemon, "v3")
            there.wait_for(lambda: there.hanging == 2, "it hangs")
            assert daemon.stop() < 15
            there.otherwise = (200, {})
            daemon.start()
            there.wait_for(lambda: "ds/v3" in refs(there), "it is sent again")

            # Another one in the same process: it begins with what is new.
            daemon.settings["schedules"] += hook(other, tmp_path, "second")
            daemon.write_config()
            assert daemon.process is not None
            os.kill(daemon.process.pid, signal.SIGHUP)
            daemon.wait_until(lambda: "second" in daemon.get("/v1/webhooks", check=False).text, "it is reloaded")
            daemon.wait_until(lambda: daemon.get("/readyz", check=False).status_code == 200, "it is ready")
            add(daemon, "v4")
            there.wait_for(lambda: "ds/v4" in refs(there) and "ds/v4" in refs(other), "both have it")
            assert refs(other) == ["ds/v4"]

            tested = daemon.cli("webhook", "test")
            assert tested.returncode == 0, tested.stderr
            assert there.got[-1].kinds == ["webhook.test"]
            everything = daemon.get("/v1/webhooks").text + daemon.get("/v1/status").text + daemon.get("/metrics").text
            ids = [e["id"] for e in there.taken() if e["id"]]
            assert ids == wanted(daemon)[-len(ids) :]
            assert len(ids) >= 4 + 2 + 2  # snapshots, starts and stops
        finally:
            daemon.close()
    assert all(got.is_signed_with(KEY) for got in (*there.got, *other.got))
    for text in (everything, daemon.log.read_text(), tested.stdout + tested.stderr):
        assert SECRET not in text
        assert SECRET.removeprefix("whsec_") not in text
        assert "in-the-url" not in text

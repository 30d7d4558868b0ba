"""The log of a real daemon, as a collector reads it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.acceptance.daemon_process import DaemonProcess


def test_each_event_is_one_line_of_json_with_its_ids(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path, migrate_after="1s", log_extra='format = "json"')
    name = 'v1 transfer=99 "level": "error"'
    for snapshot in (name, "v\n2"):
        (daemon.dataset / snapshot).mkdir()
        (daemon.dataset / snapshot / "file").write_bytes(b"x" * 1000)
    daemon.start()
    try:
        daemon.wait_until(
            lambda: any(e["kind"] == "transfer.done" for e in daemon.get("/v1/events?limit=500").json()["items"]),
            "a copy is made",
        )
        daemon.stop()
    finally:
        daemon.close()
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    told = [line for line in lines if "event" in line]
    ids = [line["event_id"] for line in told]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert told[-1]["event"] == "daemon.stopped"
    assert sum(line["event"] == "daemon.started" for line in told) == 1
    done = [line for line in told if line["event"] == "transfer.done"]
    assert [(line["snapshot"], line["dataset"]) for line in done] == [(f"ds/{name}", "ds")]
    assert {line["transfer"] for line in told if line["event"].startswith("transfer.")} == {done[0]["transfer"]}


def test_a_reload_takes_the_form_and_the_level_of_the_log(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path)
    daemon.start()
    try:
        assert "daemon.started" in daemon.log.read_text()
        daemon.settings["log_extra"] = 'format = "json"'
        daemon.write_config()
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_until(lambda: '"event": "daemon.started"' in daemon.log.read_text(), "it tells in JSON")
    finally:
        daemon.close()

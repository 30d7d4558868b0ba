"""A real tierd daemon in a process of its own, with a real configuration file and socket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

_CONFIG = """
database = "{base}/tierd.db"
decide_interval = "0.5s"

[[tiers]]
name = "flash"
root = "{flash}"
rank = 0
{flash_extra}

[[tiers]]
name = "hdd"
root = "{hdd}"
rank = 1
{hdd_extra}

[[datasets]]
name = "ds"
path = "{flash}/datasets/ds"

[[datasets]]
name = "archive"
path = "{hdd}/archive"

{schedules}

[defaults]
settle_after = "{settle_after}"
migrate_after = "{migrate_after}"
release_after = "{release_after}"
min_residency = "0s"

[api]
socket = "{base}/api.sock"

[mover]
backoff = "0.5s"
backoff_max = "2s"
release_wait = "1s"
busy_io = "off"
{mover_extra}

[observe]
flush_interval = "0.2s"

[log]
level = "debug"
{log_extra}
"""


class DaemonProcess:
    """Starts, stops, kills and asks a daemon. Files lie below `base`, or on given mounts."""

    def __init__(self, base: Path, *, flash: Path | None = None, hdd: Path | None = None, **settings: str) -> None:
        self.base = base
        self.flash, self.hdd = flash or base / "flash", hdd or base / "hdd"
        self.dataset = self.flash / "datasets" / "ds"
        self.archive = self.hdd / "archive"
        for path in (self.dataset, self.archive):
            path.mkdir(parents=True, exist_ok=True)
        self.settings = {
            "flash_extra": "",
            "hdd_extra": "",
            "mover_extra": "",
            "schedules": "",
            "log_extra": "",
            "settle_after": "1s",
            "migrate_after": "never",
            "release_after": "never",
            **settings,
        }
        self.config = base / "config.toml"
        self.write_config()
        self.log = base / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None

    def write_config(self) -> None:
        self.config.write_text(_CONFIG.format(base=self.base, flash=self.flash, hdd=self.hdd, **self.settings))

    @property
    def url(self) -> str:
        return f"unix://{self.base}/api.sock"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "TIERD_URL": self.url}

    def spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tierd", "run", "--config", str(self.config)], stdout=log, stderr=log
            )

    def start(self) -> None:
        self.process = self.spawn()
        self.wait_until(lambda: self.get("/readyz", check=False).status_code == 200, "the daemon is ready")

    def kill(self) -> None:
        """kill -9, workers included (they die with it)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> float:
        """SIGTERM; returns how many seconds the stop took."""
        assert self.process is not None
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log.read_text()[-2000:]
        return time.monotonic() - begin

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    # -- asking ----------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, *, check: bool = True, **more: Any) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=str(self.base / "api.sock"))
        with httpx.Client(transport=transport, base_url="http://tierd", timeout=70) as client:
            response = client.request(method, path, **more)
        if check:
            assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response

    def get(self, path: str, *, check: bool = True) -> httpx.Response:
        try:
            return self.request("GET", path, check=check)
        except httpx.TransportError:
            if check:
                raise
            return httpx.Response(599)

    def post(self, path: str, body: dict[str, Any] | None = None, *, check: bool = True) -> httpx.Response:
        return self.request("POST", path, json=body or {}, check=check)

    def snapshot(self, ref: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/v1/snapshots/{ref}").json()
        return found

    def cli(self, *arguments: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tierd", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def wait_for_residency(self, ref: str, residency: str, timeout: float = 60) -> None:
        def reached() -> bool:
            response = self.get(f"/v1/snapshots/{ref}", check=False)
            return response.status_code == 200 and response.json()["residency"] == residency

        self.wait_until(reached, f"{ref} is {residency}", timeout)

    def wait_for_transfer(self, number: int, timeout: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            transfer: dict[str, Any] = self.get(f"/v1/transfers/{number}?wait_s=5").json()
            if transfer["finished_at"] is not None:
                return transfer
        raise AssertionError(f"transfer {number} did not end: {json.dumps(transfer)}")

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = 60) -> None:
        """Poll until the condition holds; the daemon's log is shown when it does not."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if condition():
                return
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the daemon ended: {self.log.read_text()[-3000:]}")
            time.sleep(0.05)
        raise AssertionError(f"not in {timeout} s: {what}\n{self.log.read_text()[-3000:]}")

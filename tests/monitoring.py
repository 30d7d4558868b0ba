"""Real Prometheus, Alertmanager and webhook for tests, on free ports of this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

DEPLOY = Path(__file__).parents[1] / "deploy"


def needs(*commands: str) -> pytest.MarkDecorator:
    """Skip where a command is missing; an unattended run (CI=true) has installed it and fails without it."""
    missing = [command for command in commands if shutil.which(command) is None]
    is_allowed = os.environ.get("CI") != "true"
    return pytest.mark.skipif(
        bool(missing) and is_allowed,
        reason=f"not installed: {', '.join(missing)} (Debian: prometheus, prometheus-alertmanager)",
    )


def promtool(*arguments: str | Path) -> None:
    """Run promtool; what it has to say is the failure."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Server:
    """A server in a process of its own that answers on a port when it is ready."""

    def __init__(self, command: list[str], url: str, log: Path) -> None:
        self.url, self._log = url, log
        with log.open("wb") as out:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        wait_until(self._is_ready, f"{command[0]} is ready", explain=lambda: log.read_text()[-3000:])

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        try:
            return httpx.get(f"{self.url}/-/ready").is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


class Prometheus(Server):
    """Prometheus with a configuration file."""

    def __init__(self, config: Path, port: int) -> None:
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={config.parent / 'tsdb'}"]
        command.append(f"--web.listen-address=127.0.0.1:{port}")
        super().__init__(command, f"http://127.0.0.1:{port}", config.parent / "prometheus.log")

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series of an instant query; fails when the query is refused."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expr}, timeout=30).json()
        assert answer["status"] == "success", f"{expr}: {answer}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def query_range(self, expr: str, *, since_s: float) -> list[float]:
        """Every value, of all series, that is a number."""
        now = time.time()
        params: Mapping[str, str | float] = {"query": expr, "start": now - since_s, "end": now, "step": 1}
        answer = httpx.get(f"{self.url}/api/v1/query_range", params=params, timeout=30).json()
        assert answer["status"] == "success", f"{expr}: {answer}"
        values = [float(value) for series in answer["data"]["result"] for _, value in series["values"]]
        return [value for value in values if value == value]  # NaN is not

    def rules(self) -> dict[str, str]:
        """Every rule with what became of its last evaluation: ok, err or unknown."""
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=30).json()["data"]["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}


class Alertmanager(Server):
    """Alertmanager with a configuration file."""

    def __init__(self, config: Path, port: int) -> None:
        command = ["prometheus-alertmanager", f"--config.file={config}", f"--storage.path={config.parent / 'am'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
        super().__init__(command, f"http://127.0.0.1:{port}", config.parent / "alertmanager.log")


class Webhook:
    """Takes alerts as a chat or pager would."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                hook.alerts += body["alerts"]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing: tests look at what came."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/alerts"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def got(self, name: str, status: str) -> dict[str, Any] | None:
        """The newest alert of this name and status."""
        found = (a for a in reversed(self.alerts) if a["labels"]["alertname"] == name and a["status"] == status)
        return next(found, None)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 30, explain: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not in {timeout} s: {what}\n{explain()}"
        time.sleep(0.05)

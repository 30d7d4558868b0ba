"""Runs what is in deploy/examples as a user does: each in a process of its own, against a real daemon."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.daemon_process import DaemonProcess
from tests.world import S3Settings

_EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
_TIMEOUT_S = 120.0

_CLOUD = """
[[tiers]]
name = "cloud"
kind = "s3"
rank = 2
bucket = "{s3.bucket}"
prefix = "{s3.prefix}"
endpoint = "{s3.endpoint}"
region = "us-east-1"
credentials = "{s3.credentials}"
"""


def need(*libraries: str) -> None:
    """Skip the test where a library of the extra `integrations` is missing.

    They are looked for, not imported: torch alone would cost each test process a quarter of a gigabyte.
    """
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: `pip install -e '.[integrations]' torch`; CI installs them")


def begin(daemon: DaemonProcess, name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start an example."""
    hub_stays_away = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(daemon.base / "hf-home")}
    return subprocess.Popen(
        [sys.executable, str(_EXAMPLES / name), *arguments],
        env={**daemon.environment, "OMP_NUM_THREADS": "1", **hub_stays_away, **environment},
        cwd=daemon.base,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What it printed, once it has ended well."""
    try:
        out, err = process.communicate(timeout=_TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 0, out + err
    return out


def run(daemon: DaemonProcess, name: str, *arguments: str, **environment: str) -> str:
    """What an example prints when it ends well."""
    return finish(begin(daemon, name, *arguments, **environment))


def cloud(s3: S3Settings) -> str:
    """A third tier for the configuration of a daemon: goes into `hdd_extra`."""
    return _CLOUD.format(s3=s3)


def cool(daemon: DaemonProcess, ref: str) -> None:
    """Have a snapshot leave flash for HDD, once the daemon has found it and it is settled."""
    daemon.wait_until(partial(_is_settled, daemon, ref), f"{ref} is settled")
    answer = daemon.post(f"/v1/snapshots/{ref}/migrate", {"release": True}).json()
    assert daemon.wait_for_transfer(answer["id"])["state"] == "done"
    daemon.wait_for_residency(ref, "migrated")
    assert tiers_of(daemon, ref) == {"hdd"}


def tiers_of(daemon: DaemonProcess, ref: str) -> set[str]:
    """Where its copies are."""
    response = daemon.get(f"/v1/snapshots/{ref}", check=False)
    return {p["tier"] for p in response.json()["placements"]} if response.status_code == 200 else set()


def _is_settled(daemon: DaemonProcess, ref: str) -> bool:
    response = daemon.get(f"/v1/snapshots/{ref}", check=False)
    return response.status_code == 200 and bool(response.json()["is_settled"])


def noise(size: int) -> bytes:
    """Bytes that nothing can guess or make smaller."""
    return os.urandom(size)

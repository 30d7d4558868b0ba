"""A machine is lost with its flash and its database; another one has the bucket, and goes on."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from tests.acceptance.daemon_process import DaemonProcess
from tests.seaweed import BUCKET, Seaweed
from tests.world import digest_tree, s3_settings

_CLOUD = """
[[tiers]]
name = "cloud"
kind = "s3"
rank = 2
bucket = "{bucket}"
prefix = "{prefix}"
endpoint = "{endpoint}"
region = "us-east-1"
credentials = "{credentials}"
"""


def test_another_machine_with_nothing_but_the_bucket_warms_what_is_in_it(tmp_path: Path, seaweed: Seaweed) -> None:
    s3 = s3_settings(tmp_path, seaweed.endpoint)
    cloud = _CLOUD.format(bucket=BUCKET, prefix=s3.prefix, endpoint=s3.endpoint, credentials=s3.credentials)
    first = DaemonProcess(_directory(tmp_path, "first"), hdd_extra=cloud)
    text = first.config.read_text()
    text = text.replace('migrate_after = "never"', 'migrate_after = { cloud = "1s" }')
    first.config.write_text(text.replace('release_after = "never"', 'release_after = { flash = "2s" }'))
    for name in ("v1", "v2"):
        (first.dataset / name / "sub").mkdir(parents=True)
        for number in range(20):
            (first.dataset / name / "sub" / f"f{number}").write_bytes(f"{name} {number}\n".encode() * 1000)
    before = {name: digest_tree(first.dataset / name) for name in ("v1", "v2")}
    first.start()
    try:
        for name in before:
            first.wait_until(partial(_is_only_in, first, f"ds/{name}", "cloud"), f"{name} is in the bucket")
        running = first.cli("rebuild", "--config", str(first.config))
        assert running.returncode == 8
        assert "Stop the daemon" in running.stderr
        audited = first.cli("audit", "--config", str(first.config))
        assert audited.returncode == 0, audited.stdout + audited.stderr
    finally:
        first.close()
    shutil.rmtree(first.base)

    second = DaemonProcess(_directory(tmp_path, "second"), hdd_extra=cloud)
    rebuilt = second.cli("rebuild", "--config", str(second.config))
    assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
    second.start()
    try:
        for name, content in before.items():
            assert second.snapshot(f"ds/{name}")["residency"] == "migrated"
            warmed = second.cli("warm", f"ds/{name}", "--wait")
            assert warmed.returncode == 0, warmed.stderr
            assert digest_tree(second.dataset / name) == content
        assert second.cli("audit", "--config", str(second.config)).returncode == 0
    finally:
        second.close()


def _directory(above: Path, name: str) -> Path:
    path = above / name
    path.mkdir()
    return path


def _is_only_in(daemon: DaemonProcess, ref: str, tier: str) -> bool:
    response = daemon.get(f"/v1/snapshots/{ref}", check=False)
    return response.status_code == 200 and {p["tier"] for p in response.json()["placements"]} == {tier}

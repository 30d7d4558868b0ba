"""A cache of the Hugging Face hub, made by its own client, on every tier: its links hold, and the client finds all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.daemon_process import DaemonProcess
from tests.acceptance.examples import cloud, cool, need, noise, run, tiers_of
from tests.hub import hub
from tests.seaweed import Seaweed
from tests.world import digest_tree, s3_settings

_REPO, _FOLDER = "org/tiny", "models--org--tiny"
_OLD, _NEW = "a" * 40, "b" * 40

_CLIENT = """
import json, os, sys
import huggingface_hub as hub
what, cache, repo, *more = sys.argv[1:]
if what == "download":
    for revision in more:
        hub.snapshot_download(repo, revision=revision, cache_dir=cache)
    hub.snapshot_download(repo, cache_dir=cache)
elif what == "share":
    # What a download by Xet does with a large file: it goes into the cache's own store, and the repository links to it.
    from huggingface_hub.utils._shared_blobs import publish_blob_to_shared_store as publish
    blob, = (os.path.realpath(os.path.join(cache, "models--org--tiny", "snapshots", r, "sub/model.bin")) for r in more)
    assert publish(blob_path=blob, xet_hash="c" * 64, cache_dir=cache, expected_size=os.path.getsize(blob))
    assert os.path.islink(blob)
else:
    def read(path):
        with open(path, "rb") as file:
            return file.read().hex()
    found = {}
    for revision in more:
        at = hub.snapshot_download(repo, revision=revision, cache_dir=cache, local_files_only=True)
        for name in ("config.json", "sub/model.bin"):
            file = hub.hf_hub_download(repo, name, revision=revision, cache_dir=cache, local_files_only=True)
            assert read(file) == read(os.path.join(at, name))
            found[f"{revision} {name}"] = read(file)
    report = hub.scan_cache_dir(cache)
    scanned = [[r.repo_id, r.size_on_disk, len(r.revisions), r.nb_files] for r in report.repos]
    print(json.dumps({"files": found, "scanned": scanned, "warnings": [str(w) for w in report.warnings]}))
"""


class Cache:
    """A cache with two revisions of one repository, which share a file."""

    def __init__(self, path: Path, home: Path) -> None:
        self.path, self._home = path, home
        model = noise(200_000)
        self.revisions = {
            _OLD: {"config.json": b"{}", "sub/model.bin": model},
            _NEW: {"config.json": b'{"x": 1}', "sub/model.bin": model},
        }
        with hub(_REPO, self.revisions) as address:
            self._client("download", _OLD, HF_ENDPOINT=address)

    def share(self) -> None:
        self._client("share", _NEW)

    def check(self, *, warning: str | None = None) -> None:
        """The client, which can reach no hub, finds every file of both revisions."""
        seen = json.loads(self._client("check", _OLD, _NEW, HF_HUB_OFFLINE="1"))
        expected = {
            f"{r} {name}": content.hex() for r, files in self.revisions.items() for name, content in files.items()
        }
        assert seen["files"] == expected
        assert seen["scanned"] == [[_REPO, 200_010, 2, 3]]
        assert [warning in text if warning else text for text in seen["warnings"]] == ([True] if warning else [])

    def _client(self, what: str, *more: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", _CLIENT, what, str(self.path), _REPO, *more],
            env={**os.environ, "HF_HOME": str(self._home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.mark.parametrize("is_whole", [False, True], ids=["a-repository", "the-cache"])
def test_a_hub_cache_works_on_every_tier(tmp_path: Path, seaweed: Seaweed, is_whole: bool) -> None:
    need("huggingface_hub")
    daemon = DaemonProcess(tmp_path, hdd_extra=cloud(s3_settings(tmp_path, seaweed.endpoint)))
    at, ref = (daemon.dataset / "hub", "ds/hub") if is_whole else (daemon.dataset, f"ds/{_FOLDER}")
    cache = Cache(at, tmp_path / "hf-home")
    if is_whole:
        cache.share()
    cache.check()
    tree = daemon.dataset / ref.removeprefix("ds/")
    before = digest_tree(tree)
    try:
        daemon.start()
        cool(daemon, ref)
        cache.check()
        assert digest_tree(tree) == before
        daemon.stop()

        text = daemon.config.read_text()
        daemon.config.write_text(
            text.replace('migrate_after = "never"', 'migrate_after = { cloud = "0s" }').replace(
                'release_after = "never"', 'release_after = { hdd = "0s" }'
            )
        )
        daemon.start()
        daemon.wait_until(lambda: tiers_of(daemon, ref) == {"cloud"}, "it is only in the bucket")
        assert not (tree / "snapshots").exists()
        daemon.stop()
        daemon.config.write_text(text)
        daemon.start()
        printed = run(daemon, "hf_hub_cache.py", ref, _REPO)
        assert f"{_REPO}: 2 files, 200008 bytes at {at}" in printed
        assert f"{_REPO}: 200010 bytes on disk, 2 revisions" in printed
        assert not tree.is_symlink()
        cache.check()
        assert digest_tree(tree) == before
    finally:
        daemon.close()


def test_a_repository_that_links_to_files_shared_by_the_cache_is_left_where_it_is(tmp_path: Path) -> None:
    """From another tier its links would lead to nothing."""
    need("huggingface_hub")
    daemon = DaemonProcess(tmp_path, migrate_after="0s", release_after="0s")
    cache = Cache(daemon.dataset, tmp_path / "hf-home")
    cache.share()
    ref = f"ds/{_FOLDER}"
    try:
        daemon.start()
        daemon.wait_for_residency("ds/blobs", "migrated")  # the shared files themselves are a snapshot like any other
        refused = daemon.post(f"/v1/snapshots/{ref}/migrate", check=False)
        assert refused.status_code == 409
        assert "relative link leads outside the snapshot" in refused.json()["detail"]
        assert tiers_of(daemon, ref) == {"flash"}
        cache.check(warning="blobs")  # a store that is a link gets no new files, but is read all the same
    finally:
        daemon.close()

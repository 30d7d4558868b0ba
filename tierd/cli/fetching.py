"""The verb fetch: single files of a copy in a bucket, without a daemon and without a recall."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tierd.cli.options import config_option
from tierd.cli.terminal import line, say
from tierd.errors import NotFound
from tierd.model.dataset import SnapshotRef
from tierd.model.units import format_size

if TYPE_CHECKING:
    from tierd.config import Config
    from tierd.model.tier import Tier
    from tierd.storage.s3.commit import Commit


@click.command("fetch")
@click.argument("ref", metavar="DATASET/SNAPSHOT")
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
@click.option(
    "--to", "target", metavar="DIR", type=click.Path(path_type=Path), default=Path(), help="Where to; default: here."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
def fetch(ref: str, patterns: tuple[str, ...], target: Path, as_json: bool, config: Path | None) -> None:
    """Bring single files of a snapshot from its bucket to a directory of yours.

    PATTERN is a path below the snapshot, with * and ? as in a shell; a directory stands for all in it. Only the bytes
    of these files are read, and each is checked against its digest. The snapshot stays where it is: its path never
    shows half of it. Works without the daemon; whoever calls needs the configuration and the keys of the bucket.

    \b
    tierd fetch imagenet/v3 labels.csv 'val/*.tar' --to /tmp/look
    """
    from tierd.config import Mounts, config_path, load
    from tierd.storage.manifest import Manifest
    from tierd.storage.s3.bucket import Bucket
    from tierd.storage.s3.commit import fetch_manifest
    from tierd.storage.s3.extract import extract

    loaded = load(config or config_path(os.environ), mounts=Mounts.IGNORED)
    tier, commit = _newest(loaded, SnapshotRef.parse(ref))
    assert tier.s3 is not None
    bucket = Bucket(tier.s3)
    control = _Shown(ref)
    with tempfile.TemporaryDirectory(prefix="tierd-fetch-") as scratch:
        path = Path(scratch) / "manifest.db"
        fetch_manifest(bucket, commit, path, control.checkpoint)
        with Manifest.open(path) as manifest:
            found = extract(bucket, manifest, patterns, target, control)
    if as_json:
        shown = {"ref": ref, "tier": tier.name, "copy": commit.copy, "files": found.files, "bytes": found.size_bytes}
        click.echo(json.dumps(shown | {"directory": str(target.resolve())}))
    else:
        line(f"{found.files} file{'' if found.files == 1 else 's'}, {format_size(found.size_bytes)} in {target}")


def _newest(config: Config, ref: SnapshotRef) -> tuple[Tier, Commit]:
    """The newest copy of a snapshot in any bucket.

    Raises:
        NotFound: there is none.
    """
    from tierd.storage.s3.bucket import Bucket
    from tierd.storage.s3.commit import read_commit

    found: list[tuple[str, Tier, Commit]] = []
    for tier in (t for t in config.tiers if t.s3 is not None):
        assert tier.s3 is not None
        bucket = Bucket(tier.s3)
        for name in bucket.list_directories(f"{ref.dataset}/{ref.name}/"):
            commit = read_commit(bucket, f"{ref.dataset}/{ref.name}/{name}")
            if commit is not None:
                found.append((commit.as_of or "", tier, commit))
    if not found:
        raise NotFound(
            f"no copy of {ref} is in a bucket of this configuration",
            hint="`tierd ls` shows where it is; a copy on a disk can be read at its path.",
        )
    _, tier, commit = max(found, key=lambda one: one[0])
    return tier, commit


class _Shown:
    """A control that tells how far it is, on standard error, when it takes longer than a moment."""

    def __init__(self, ref: str) -> None:
        from time import monotonic

        self._ref, self._now, self._next = ref, monotonic, monotonic() + 1.0
        self._bytes = self._files = 0

    def checkpoint(self, name: str = "") -> None:
        if self._now() > self._next:
            self._next = self._now() + 1.0
            say(f"{self._ref}: {self._files} files, {format_size(self._bytes)}")

    def progress(self, *, bytes: int, files: int) -> None:  # noqa: A002  the word of the progress report
        self._bytes += bytes
        self._files += files

"""The demo's chapters about object storage: down to the bucket, out of it without tierd, and back."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tierd.cli.demo_server import BUCKET, DemoServer
from tierd.cli.demo_show import compare, compared, say, snapshots_table, title, until, verified, warm
from tierd.cli.demo_world import PREFIX, RUN, DemoWorld, tree_digest
from tierd.cli.terminal import Cell, line, table
from tierd.errors import TierdError
from tierd.model.units import format_size

if TYPE_CHECKING:
    from tierd.client import Snapshot
    from tierd.storage.s3.bucket import Bucket


def tell_cloud(world: DemoWorld, server: DemoServer, numbers: Iterator[int], digests: Mapping[str, str]) -> None:
    """Tell them.

    Args:
        numbers: of chapters.
        digests: of snapshots, as they were at first.
    """
    title(next(numbers), f"Nobody asks for {RUN}: by its policy it goes on to S3, and leaves the HDD")
    until(world, lambda: _has_arrived(world.tierd.snapshot(RUN)))
    _ways(world)
    snapshots_table(list(world.tierd.snapshots()))
    _read_what_is_away(world)

    title(next(numbers), f"What lies in the bucket:  s3://{BUCKET}/{PREFIX}")
    copy = f"{PREFIX}/{world.tierd.snapshot(RUN).placements[0].location}"
    _objects(server.bucket, copy)
    _unpack_without_tierd(server.bucket, copy, digests[RUN])

    title(next(numbers), f"A job needs {RUN} after all:  tierd warm {RUN} --wait")
    warm(world, RUN)
    compare(world, [RUN], digests)


def _has_arrived(run: Snapshot) -> bool:
    return verified(run) == ["cloud"] and run.transfer is None


def _ways(world: DemoWorld) -> None:
    """How it came there, from its transfers."""
    done = [t for t in reversed(world.tierd.transfers()) if t.ref == RUN and t.state == "done"]
    rows = [
        (
            str(t.id),
            f"released from {t.source}" if t.release else f"copied from {t.source} to {t.destination}",
            t.reason,
        )
        for t in done
    ]
    table(("TRANSFER", "WHAT", "WHY"), rows, right=("TRANSFER",))


def _read_what_is_away(world: DemoWorld) -> None:
    """The path fails loudly: nobody trains on an empty directory."""
    try:
        os.listdir(world.path(RUN))
    except FileNotFoundError as error:
        line("reading  ", Cell(f"{type(error).__name__}: {error}", "red"))
    else:
        raise TierdError(f"{RUN} is on flash or HDD still")


def _objects(bucket: Bucket, copy: str) -> None:
    rows = [(found.key.removeprefix(f"{copy}/"), format_size(found.size)) for found in bucket.list(f"{copy}/")]
    table((f"OBJECT BELOW {copy}/", "SIZE"), rows, right=("SIZE",))


def _unpack_without_tierd(bucket: Bucket, copy: str, digest: str) -> None:
    """Get the snapshot back with plain downloads and `tar`, as anybody can."""
    tar = shutil.which("tar")
    if tar is None:
        return
    say("Packs are plain tar, large files as they were: a download and `tar x` bring all of it back without tierd.")
    with tempfile.TemporaryDirectory() as directory:
        for found in bucket.list(f"{copy}/files/"):
            file = Path(directory, found.key.removeprefix(f"{copy}/files/"))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bucket.get(found.key))
        for found in bucket.list(f"{copy}/packs/"):  # in the order of their names: tree.tar is the last
            subprocess.run([tar, "-xpf", "-", "-C", directory], input=bucket.get(found.key), check=True)
        before, now, verdict = compared(RUN, digest, tree_digest(Path(directory)))
    table(("DIGEST BEFORE", "DIGEST OF WHAT TAR GAVE", ""), [(before, now, verdict)])

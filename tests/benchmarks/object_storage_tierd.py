"""tierd's side of the comparison: the S3 driver as a worker uses it, in a process of its own for every run.

    object_storage_tierd.py [--stand-by] prepare|up|down|get ENDPOINT BUCKET SCRATCH [SOURCE|TARGET]

Up is everything until the commit object is written, the store's proof of every checksum included. Down begins on a
machine that knows nothing but the copy's location, and ends when the tree is complete and synced; every byte is
compared with its digest on the way. With --stand-by it loads what a worker of the daemon loads that has no order yet,
says so, and waits for a line. SCRATCH holds `credentials`, and afterwards the identity and the location.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from blake3 import blake3  # noqa: E402  after the path above, as all that follows

from tierd.model.s3 import S3Settings  # noqa: E402
from tierd.model.tier import TierKind  # noqa: E402
from tierd.move.worker import preload  # noqa: E402
from tierd.storage.base import CopyLimits, Site, Tree  # noqa: E402
from tierd.storage.control import Unlimited  # noqa: E402
from tierd.storage.s3.bucket import Bucket  # noqa: E402
from tierd.storage.s3.identity import establish_identity  # noqa: E402
from tierd.storage.s3.index import Index  # noqa: E402
from tierd.storage.s3.store import S3Storage  # noqa: E402

_GETS = 200
_FIRST_GETS = 5
"""Reads before the ones that count: they open the connections."""


def tierd_up(settings: S3Settings, scratch: Path, source: Path) -> None:
    storage, key, site = _attached(settings, scratch), uuid.uuid4().hex[:16], _site(None)
    fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        storage.receive(Tree(fd), key, site, CopyLimits(), Unlimited()).close()
    finally:
        os.close(fd)
    storage.verify(key, "read", Unlimited()).close()
    (scratch / "location").write_text(str(storage.publish(key, site).location))


def tierd_down(settings: S3Settings, scratch: Path, target: Path) -> None:
    with _attached(settings, scratch).reading(_site((scratch / "location").read_text())) as copy:
        assert not isinstance(copy, Tree)
        copy.unpack(target, CopyLimits(), Unlimited()).close()


def tierd_get(settings: S3Settings, scratch: Path) -> dict[str, float]:
    """Milliseconds (p50, p99) of reading one file out of its pack, and of reading an object of the same length."""
    import boto3  # not before: it is no part of the other runs

    storage, chooser = _attached(settings, scratch), random.Random(1)
    os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(settings.credentials)
    plain = boto3.client("s3", endpoint_url=settings.endpoint, region_name=settings.region)
    found: dict[str, list[float]] = {"ranged": [], "bare": []}
    manifest = storage.manifest(_site((scratch / "location").read_text()))
    assert manifest is not None
    with contextlib.closing(manifest):
        index = Index(manifest)
        packs = {item.number: item for item in index.objects("pack")}
        entries = list(manifest.entries(type="f"))
        plain.put_object(Bucket=settings.bucket, Key="bare", Body=os.urandom(entries[0].size))
        for number in range(_FIRST_GETS + _GETS):
            entry = chooser.choice(entries)
            began = time.perf_counter()
            piece = index.piece(entry.path)
            assert piece is not None
            item = packs[piece.object]
            data = storage.bucket.get(item.key, start=piece.offset, length=piece.length, etag=item.etag)
            is_right = blake3(data).digest() == entry.digest
            between = time.perf_counter()
            plain.get_object(Bucket=settings.bucket, Key="bare")["Body"].read()
            ended = time.perf_counter()
            if not is_right:
                sys.exit(f"{entry.path!r} read from its pack is not what was stored")
            if number >= _FIRST_GETS:
                found["ranged"].append((between - began) * 1e3)
                found["bare"].append((ended - between) * 1e3)
    at = {name: statistics.quantiles(values, n=100) for name, values in found.items()}
    return {f"{name}_p{percent}_ms": round(at[name][percent - 1], 2) for name in at for percent in (50, 99)}


def _attached(settings: S3Settings, scratch: Path) -> S3Storage:
    storage = S3Storage(settings, (scratch / "identity").read_text())
    storage.attach()
    return storage


def _site(location: str | None) -> Site:
    return Site(snapshot_key="bench", dataset="bench", name="v1", location=location, home_path=None)


def main(what: str, endpoint: str, bucket: str, where: str, *at: str) -> None:
    began, scratch = time.perf_counter(), Path(where)
    settings = S3Settings(
        bucket=bucket,
        prefix="tierd",
        endpoint=endpoint,
        region="us-east-1",
        credentials=scratch / "credentials",
        state=scratch / f"state-{os.getpid()}",  # of this process alone: nothing is known from the run before
    )
    result: dict[str, float] = {}
    if what == "prepare":
        identity = establish_identity(Bucket(settings), "cold", known=None, now=datetime.now(UTC))
        (scratch / "identity").write_text(identity)
    elif what == "up":
        tierd_up(settings, scratch, Path(*at))
    elif what == "down":
        tierd_down(settings, scratch, Path(*at))
    else:
        result = tierd_get(settings, scratch)
    print(json.dumps({**result, "work_s": round(time.perf_counter() - began, 3)}))


def stand_by() -> None:
    preload([TierKind.S3])
    print("ready", flush=True)
    if not sys.stdin.readline():
        sys.exit(1)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[0] == "--stand-by":
        stand_by()
        del arguments[0]
    main(*arguments)

"""The copies in a bucket, by their commit objects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tierd.errors import Corrupt, Unsupported
from tierd.model.dataset import is_dataset_name
from tierd.storage.found import FoundCopy, Unreadable, parse_as_of
from tierd.storage.s3 import layout
from tierd.storage.s3.bucket import Bucket
from tierd.storage.s3.commit import Commit, read_commit

_KEY = re.compile("[0-9a-f]{16}")


def find_copies(bucket: Bucket) -> Iterator[FoundCopy | Unreadable]:
    """Every copy in the bucket, by its location. What lies beside no commit object is no copy.

    Raises:
        StorageError: the bucket cannot be read.
    """
    snapshots = (
        f"{dataset}/{name}"
        for dataset in bucket.list_directories("")
        if is_dataset_name(dataset)
        for name in bucket.list_directories(f"{dataset}/")
    )
    pool = ThreadPoolExecutor(bucket.settings.connections)
    try:
        for found in pool.map(lambda snapshot: list(_copies_of(bucket, snapshot)), snapshots):
            yield from found
    finally:
        pool.shutdown(cancel_futures=True)


def _copies_of(bucket: Bucket, snapshot: str) -> Iterator[FoundCopy | Unreadable]:
    for copy in bucket.list_directories(f"{snapshot}/"):
        location = f"{snapshot}/{copy}"
        if not layout.is_location(location):
            continue
        try:
            commit = read_commit(bucket, location)
        except (Corrupt, Unsupported) as error:
            yield Unreadable(what=layout.commit_key(location), reason=error.message)
            continue
        if commit is not None:
            yield _found(commit, location)


def _found(commit: Commit, location: str) -> FoundCopy | Unreadable:
    key, ref = commit.snapshot_key, layout.ref_of(location)
    if commit.copy != location or not isinstance(key, str) or _KEY.fullmatch(key) is None:
        return Unreadable(what=layout.commit_key(location), reason="it describes another copy than this one")
    return FoundCopy(
        snapshot_key=key,
        dataset=ref.dataset,
        name=ref.name,
        location=location,
        content_id=commit.content_id,
        entries=commit.entries,
        files=commit.files,
        size_bytes=commit.size_bytes,
        as_of=parse_as_of(commit.as_of),
    )

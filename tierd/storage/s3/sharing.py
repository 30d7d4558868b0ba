"""Find out whether a tree's content is in the bucket already, and let two copies share the same bytes.

Every copy leaves a marker below `.tierd/contents/` with its entries, bytes and content id in the key, so that one
listing finds candidates. A copy that shares another's bytes leaves a marker there (`used-by/`), comes to exist, and
**then** looks whether the other still does (`confirm`); who deletes a copy first removes its commit object and **then**
looks for markers of copies that exist. So whatever the order, one of them sees the other. Bytes whose own copy is gone
are kept for those who share them, but nobody begins to share them.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tierd.errors import Conflict, StorageError, TransferError
from tierd.fs.walk import translated, walk
from tierd.storage.manifest import Manifest, delete_manifest
from tierd.storage.s3 import layout
from tierd.storage.s3.bucket import Bucket
from tierd.storage.s3.commit import Commit, fetch_manifest, read_commit
from tierd.storage.s3.index import Index
from tierd.storage.s3.lanes import Patience
from tierd.storage.s3.sink import Nowhere
from tierd.storage.s3.upload import MANIFEST, upload_tree
from tierd.storage.s3.verifying import prove_objects


def find_same(bucket: Bucket, source_fd: int, staging: Path, location: str, patience: Patience) -> Manifest | None:
    """The staged manifest of a copy that needs no upload, as another copy has the same content; None: there is none.

    Reads the whole tree, but only when a copy with as many entries and bytes exists. What is found out lies apart
    until it is complete: an upload that went on from it would take for sent what was only read.
    """
    look = staging / "look"
    ensure_directory(look)
    delete_manifest(look / MANIFEST)
    if next(iter(bucket.list(f"{layout.CONTENTS}/")), None) is None:
        return None
    candidates = _candidates(bucket, *_measure(source_fd, patience))
    if not candidates:
        return None
    patience.control.checkpoint("look for the same content in the bucket")
    manifest = upload_tree(source_fd, look, location, Nowhere(), lambda *_: None, bucket.settings, patience)
    with closing(manifest):
        others = (read_commit(bucket, other) for other in candidates.get(manifest.content_id(), []))
        is_found = any(other is not None and _take_over(bucket, manifest, other, look, patience) for other in others)
    if not is_found:
        delete_manifest(look / MANIFEST)
        return None
    with translated(str(staging)):
        (look / MANIFEST).rename(staging / MANIFEST)
    return Manifest.open(staging / MANIFEST)


def _measure(source_fd: int, patience: Patience) -> tuple[int, int]:
    """Entries and bytes of a tree, as a manifest counts them."""
    entries, size_bytes, linked = 1, 0, set[int]()
    for listing in walk(source_fd):
        patience()
        for _, st in listing.entries:
            entries += 1
            if st.st_mode & 0o170000 == 0o100000 and (st.st_nlink == 1 or st.st_ino not in linked):
                size_bytes += st.st_size
                if st.st_nlink > 1:
                    linked.add(st.st_ino)
    return entries, size_bytes


def _candidates(bucket: Bucket, entries: int, size_bytes: int) -> dict[str, list[str]]:
    """Locations of copies with so many entries and bytes, by content id."""
    prefix = layout.content_prefix(entries, size_bytes)
    found: dict[str, list[str]] = {}
    for info in bucket.list(prefix):
        content_id, _, location = info.key.removeprefix(prefix).partition("/")
        found.setdefault(content_id, []).append(location)
    return found


def _take_over(bucket: Bucket, manifest: Manifest, commit: Commit, staging: Path, patience: Patience) -> bool:
    """Let the manifest name the objects of another copy; False when that is not whole, or only shares them itself."""
    if commit.data != commit.copy and bucket.head(layout.commit_key(commit.data)) is None:
        return False
    path = staging / "same.db"
    delete_manifest(path)
    try:
        fetch_manifest(bucket, commit, path, patience)
        with Manifest.open(path) as other:
            prove_objects(bucket, other)
            theirs, ours = Index(other), Index(manifest)
            ours.clear()
            for item in theirs.objects():
                ours.add(item)
                ours.place(list(theirs.pieces(item.number)))
    except (StorageError, TransferError):
        return False
    finally:
        delete_manifest(path)
    manifest.set_meta({"data": commit.data})
    return True


def claim(bucket: Bucket, data: str, location: str) -> None:
    """Share the bytes of the copy at `data` for the copy at `location`.

    Raises:
        Conflict: it is not there any more.
    """
    bucket.put(layout.user_key(data, location), b"", storage_class="STANDARD")
    if bucket.head(layout.commit_key(data)) is None:
        bucket.delete([layout.user_key(data, location)])
        raise Conflict(f"the copy {data}, whose bytes were to be shared, was deleted meanwhile")


def confirm(bucket: Bucket, commit: Commit, patience: Patience) -> None:
    """Make sure that a copy which now exists was seen by whoever deletes the one whose bytes it shares, or undo it.

    Raises:
        Conflict: that one is not there any more, and so this one is not either.
    """
    if bucket.head(layout.commit_key(commit.data)) is not None:
        return
    bucket.delete([layout.commit_key(commit.copy)])
    marker = layout.content_key(commit.entries, commit.size_bytes, commit.content_id, commit.copy)
    bucket.delete([marker, layout.user_key(commit.data, commit.copy)])
    delete_unused(bucket, commit.data, patience)
    raise Conflict(f"the copy {commit.data}, whose bytes were to be shared, was deleted meanwhile")


def delete_unused(bucket: Bucket, location: str, patience: Patience) -> None:
    """Delete what a copy that does not exist (any more) left, unless another copy shares its bytes."""
    if not layout.is_location(location):
        raise StorageError(f"{location!r} is not where a copy lies")
    if bucket.head(layout.commit_key(location)) is not None:
        raise Conflict(f"the copy {location} still exists")
    prefix = layout.users_prefix(location)
    for info in bucket.list(prefix):
        if bucket.head(layout.commit_key(info.key.removeprefix(prefix))) is not None:
            return
    for upload in bucket.uploads(f"{location}/"):
        bucket.abort(upload.key, upload.id)
    keys: list[str] = []
    for info in bucket.list(f"{location}/"):
        keys.append(info.key)
        if len(keys) == 1000:
            patience()
            bucket.delete(keys)
            keys = []
    bucket.delete(keys)


def ensure_directory(path: Path) -> None:
    """Make a private local directory."""
    with translated(str(path)):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

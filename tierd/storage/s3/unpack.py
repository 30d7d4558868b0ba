"""Bring a copy back: parallel ranged reads, every byte checked before it is written, many small files per second.

    staging/tree          what came back
    staging/manifest.db   the entries that are done, and the chunks of large files that are
    staging/dropped/      what an earlier attempt left where something else belongs; deleted

The staged manifest holds what is finished; what it does not hold is fetched. So a killed recall goes on, and what a
verification found wanting is fetched again.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

from tierd.errors import SourceGone
from tierd.fs.linux import syncfs
from tierd.fs.walk import open_directory, show, translate, translated
from tierd.storage.base import CopyLimits
from tierd.storage.control import Control
from tierd.storage.manifest import CHUNK, Entry, Manifest, delete_manifest
from tierd.storage.posix.copy import open_journal
from tierd.storage.posix.metadata import write_refused
from tierd.storage.posix.staged import empty_dropped, finish_directories, make_private, sweep_strangers
from tierd.storage.posix.writing import Attributes, keep_attributes, make_special, write_all
from tierd.storage.s3.bucket import Bucket
from tierd.storage.s3.fetch import Chunks, Files, Range, ranges
from tierd.storage.s3.index import Object, Piece
from tierd.storage.s3.lanes import Lanes, Patience
from tierd.storage.s3.proof import check_chunks, check_file

MEMORY = 160 << 20
_COMMIT_S = 2.0
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REOPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {"l": stat.S_IFLNK, "p": stat.S_IFIFO, "c": stat.S_IFCHR, "b": stat.S_IFBLK}
_FETCHED = (
    "CREATE TABLE IF NOT EXISTS fetched (path BLOB, chunk INTEGER, PRIMARY KEY (path, chunk)) STRICT, WITHOUT ROWID"
)


class S3Copy:
    """A copy in a bucket, as something that can be read (a `Bundle`).

    Args:
        manifest: the file that holds the copy's manifest.
    """

    def __init__(self, bucket: Bucket, manifest: Path) -> None:
        self._bucket = bucket
        self._manifest = manifest

    def unpack(self, staging: Path, limits: CopyLimits, control: Control) -> Manifest:
        """See `Bundle`.

        Raises:
            Corrupt: bytes in the bucket are not those that were stored.
            SourceGone, SourceChanged: an object is missing, or another one.
            TierFull, StorageError, Interrupted
        """
        known = Manifest.open(self._manifest)
        try:
            content_id = known.content_id()
            _forget_other(staging, content_id)
            for name in ("tree", "dropped"):
                with translated(str(staging)):
                    (staging / name).mkdir(mode=0o700, exist_ok=True)
            manifest, is_resumed = open_journal(staging / "manifest.db")
            tree, dropped = (os.open(staging / name, os.O_RDONLY | os.O_DIRECTORY) for name in ("tree", "dropped"))
            try:
                manifest.set_meta({"unpacks": content_id, "complete": None})
                work = _Unpack(self._bucket, known, manifest, tree, dropped, is_resumed, limits, control)
                work.run()
                manifest.end_bulk()
            except BaseException:
                manifest.close()
                raise
            finally:
                os.close(tree)
                os.close(dropped)
            return manifest
        finally:
            known.close()


def _forget_other(staging: Path, content_id: str) -> None:
    """What lies in the staging area may be of another copy that this transfer began with."""
    path = staging / "manifest.db"
    if not path.exists():
        return
    with Manifest.open(path) as manifest:
        if manifest.meta.get("unpacks") == content_id:
            return
    delete_manifest(path)
    with translated(str(staging)), suppress(FileNotFoundError):
        shutil.rmtree(staging / "tree")


class _Large:
    """A large file while its chunks arrive."""

    def __init__(self, fd: int, entry: Entry, digests: list[bytes], done: set[int]) -> None:
        self.fd, self.entry, self.digests, self.done = fd, entry, digests, done
        self.missing = len(digests) - len(done)


class _Unpack:
    """One attempt."""

    def __init__(
        self,
        bucket: Bucket,
        known: Manifest,
        manifest: Manifest,
        tree: int,
        dropped: int,
        is_resumed: bool,
        limits: CopyLimits,
        control: Control,
    ) -> None:
        self._bucket, self._known, self._manifest = bucket, known, manifest
        self._tree, self._dropped, self._is_resumed = tree, dropped, is_resumed
        self._limits, self._control = limits, control
        self._attempt = int(manifest.meta.get("attempt", "0")) + 1
        self._ids = (os.geteuid(), os.getegid())
        self._local = threading.local()
        self._large: dict[bytes, _Large] = {}
        self._directories: list[int] = []
        self._lock = threading.Lock()
        self._aside = 0
        self._next_commit = time.monotonic() + _COMMIT_S
        self._copied = 0

    def run(self) -> None:
        manifest, control = self._manifest, self._control
        manifest.execute(_FETCHED)
        manifest.set_meta({"attempt": str(self._attempt)})
        make_private(self._tree)
        empty_dropped(self._dropped, control)
        control.checkpoint("copy")
        try:
            self._make_directories()
            settings = self._bucket.settings
            patience = self._bucket.on_wait = Patience(control)
            with Lanes(settings.connections, MEMORY, patience) as lanes:
                self._lanes = lanes
                for part in ranges(self._known, range_bytes=settings.part_bytes, first=self._limits.first):
                    self._take_messages()
                    self._start(part)
                while not lanes.is_idle:
                    lanes.wait()
                    self._take_messages()
                lanes.drain()
                self._take_messages()
        finally:
            self._close()
            manifest.commit()
        control.checkpoint("copy: links")
        self._make_others()
        if self._is_resumed:
            sweep_strangers(self._tree, self._dropped, manifest, control)
        control.checkpoint("copy: directories")
        finish_directories(self._tree, manifest, control, is_new=not self._is_resumed)
        control.checkpoint("copy: sync")
        manifest.execute("DROP TABLE fetched")
        manifest.set_meta({"complete": "1", "copied_bytes": str(self._copied)})
        with translated("the copy"):
            syncfs(self._tree)

    def _close(self) -> None:
        for large in self._large.values():
            os.close(large.fd)
        self._large.clear()
        for fd in self._directories:
            with suppress(OSError):
                os.close(fd)

    # -- directories, links, devices -----------------------------------------------------------------------

    def _make_directories(self) -> None:
        above: tuple[bytes, int] | None = None
        try:
            for number, entry in enumerate(self._known.entries(type="d")):
                if number % 256 == 0:
                    self._control.checkpoint()
                self._manifest.add([self._row(entry)])
                if not entry.path:
                    continue
                parent, _, name = entry.path.rpartition(b"/")
                if above is None or above[0] != parent:
                    if above is not None:
                        os.close(above[1])
                    above = (parent, open_directory(self._tree, parent))
                self._make_directory(above[1], name)
        except OSError as error:
            raise write_refused(error, "a directory") from error
        finally:
            if above is not None:
                os.close(above[1])

    def _make_directory(self, parent: int, name: bytes) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if os.geteuid() != 0:  # it may have its final mode from an earlier attempt
                os.chmod(name, 0o700, dir_fd=parent, follow_symlinks=False)

    def _make_others(self) -> None:
        """Links, FIFOs, devices, and the further names of hard-linked entries."""
        for number, entry in enumerate(self._known.entries()):
            if number % 256 == 0:
                self._control.checkpoint()
            is_further = entry.link_group not in (None, entry.path)
            if not is_further and entry.type in "fd":
                continue
            try:
                self._make_other(entry, is_further)
            except OSError as error:
                raise write_refused(error, show(entry.path)) from error
            self._manifest.add([self._row(entry)])

    def _make_other(self, entry: Entry, is_further: bool) -> None:
        parent, _, name = entry.path.rpartition(b"/")
        fd = open_directory(self._tree, parent)
        try:
            self._clear(fd, name)
            if is_further:
                above, _, leader = (entry.link_group or b"").rpartition(b"/")
                source = open_directory(self._tree, above)
                try:
                    os.link(leader, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
                finally:
                    os.close(source)
                self._control.progress(bytes=0, files=int(entry.type == "f"))
                return
            kind = _KINDS[entry.type]
            make_special(fd, name, kind, _attributes(entry), entry.rdev, entry.target, entry.xattrs, ids=self._ids)
        finally:
            os.close(fd)

    def _clear(self, fd: int, name: bytes) -> None:
        """Take a name away; what is no plain entry is set aside for deletion."""
        try:
            os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            with self._lock:
                self._aside += 1
                aside = b"%d-%d" % (os.getpid(), self._aside)
            os.rename(name, aside, src_dir_fd=fd, dst_dir_fd=self._dropped)

    def _row(self, entry: Entry) -> Entry:
        """As recorded in the staged manifest: there is no tree that this one was read from."""
        return entry._replace(
            source_inode=None, source_ctime_ns=None, copy_inode=None, copy_ctime_ns=None, attempt=self._attempt
        )

    # -- files: the caller's thread --------------------------------------------------------------------------

    def _start(self, part: Range) -> None:
        if isinstance(part, Files):
            part = self._missing(part) if self._is_resumed else part
            if not part.items:
                return
        elif not self._is_missing(part):
            return
        buffer = self._lanes.buffer(max(part.stop - part.start, 1))
        self._lanes.run(lambda: self._fetch(part, buffer))

    def _missing(self, part: Files) -> Files:
        """The part without the files that an earlier attempt brought."""
        found: dict[bytes, Entry] = {}
        paths = [entry.path for entry, _ in part.items]
        for at in range(0, len(paths), 500):
            found |= self._manifest.find_all(paths[at : at + 500])
        items = tuple(item for item in part.items if item[0].path not in found)
        for entry, _ in part.items:
            if entry.path in found:
                self._control.progress(bytes=entry.size, files=1)
        if not items:
            return Files(part.object, 0, 0, ())
        last = items[-1][1]
        return Files(part.object, items[0][1].offset, last.offset + last.length, items)

    def _is_missing(self, part: Chunks) -> bool:
        entry = part.entry
        if self._is_resumed and self._manifest.find(entry.path) is not None:
            if part.first == 0:
                self._control.progress(bytes=entry.size, files=1)
            return False
        large = self._large.get(entry.path)
        if large is None:
            large = self._large[entry.path] = self._open_large(entry)
        if all(chunk in large.done for chunk in range(part.first, part.last)):
            self._control.progress(bytes=_length(part), files=0)
            return False
        large.missing += sum(chunk in large.done for chunk in range(part.first, part.last))
        large.done.difference_update(range(part.first, part.last))
        return True

    def _open_large(self, entry: Entry) -> _Large:
        """The file in the tree: what an earlier attempt left of it, else a new one."""
        digests = self._known.chunks(entry.path)
        parent, _, name = entry.path.rpartition(b"/")
        done: set[int] = set()
        try:
            directory = open_directory(self._tree, parent)
            try:
                rows = self._manifest.execute("SELECT chunk FROM fetched WHERE path = ?", (entry.path,))
                fd = -1
                if rows:
                    with suppress(OSError):
                        fd = os.open(name, _REOPEN, dir_fd=directory)
                        done = {int(str(row[0])) for row in rows}
                if fd < 0:
                    self._clear(directory, name)
                    self._manifest.execute("DELETE FROM fetched WHERE path = ?", (entry.path,))
                    fd = os.open(name, _WRITE, 0o600, dir_fd=directory)
            finally:
                os.close(directory)
            os.ftruncate(fd, entry.size)
        except OSError as error:
            raise write_refused(error, show(entry.path)) from error
        return _Large(fd, entry, digests, done)

    def _take_messages(self) -> None:
        for message in self._lanes.messages():
            if isinstance(message, Files):
                self._manifest.add([self._row(entry) for entry, _ in message.items])
                size = sum(entry.size for entry, _ in message.items)
                self._control.progress(bytes=size, files=len(message.items))
                self._copied += size
            elif isinstance(message, Chunks):
                self._note_chunks(message)
        if time.monotonic() > self._next_commit:
            self._next_commit = time.monotonic() + _COMMIT_S
            self._manifest.commit()

    def _note_chunks(self, part: Chunks) -> None:
        large = self._large[part.entry.path]
        chunks = range(part.first, part.last)
        rows = [(part.entry.path, chunk) for chunk in chunks]
        self._manifest.execute_many("INSERT OR REPLACE INTO fetched VALUES (?, ?)", rows)
        large.missing -= len(chunks)
        self._control.progress(bytes=_length(part), files=0)
        self._copied += _length(part)
        if large.missing:
            return
        entry = part.entry
        try:
            keep_attributes(large.fd, _attributes(entry), entry.xattrs, ids=self._ids, created_mode=None)
        except OSError as error:
            raise write_refused(error, show(entry.path)) from error
        os.close(self._large.pop(entry.path).fd)
        self._manifest.add([self._row(entry)])
        self._manifest.add_chunks(entry.path, b"".join(large.digests))
        self._manifest.execute("DELETE FROM fetched WHERE path = ?", (entry.path,))
        self._control.progress(bytes=0, files=1)

    # -- files: in the lanes -----------------------------------------------------------------------------------

    def _fetch(self, part: Range, buffer: bytearray) -> None:
        try:
            with memoryview(buffer) as whole, whole[: part.stop - part.start] as view:
                if len(view):
                    self._bucket.get_into(part.object.key, view, start=part.start, etag=part.object.etag)
                if isinstance(part, Files):
                    for entry, piece in part.items:
                        at = piece.offset - part.start
                        self._write_file(entry, piece, part.object, view[at : at + piece.length])
                else:
                    self._write_chunks(part, view)
        except SourceGone as error:
            raise SourceGone(
                f"{part.object.key} is missing from the bucket: the copy is not complete any more",
                hint="Restore that object from a version of the bucket, or use another copy.",
            ) from error
        finally:
            self._lanes.give_back(buffer)
        self._lanes.tell(part)

    def _write_file(self, entry: Entry, piece: Piece, item: Object, data: memoryview) -> None:
        check_file(data, entry, piece, item)
        parent, _, name = entry.path.rpartition(b"/")
        try:
            directory = self._enter(parent)
            mode = entry.mode & 0o777
            try:
                fd = os.open(name, _WRITE, mode, dir_fd=directory)
            except FileExistsError:
                self._clear(directory, name)
                fd = os.open(name, _WRITE, mode, dir_fd=directory)
            try:
                if piece.segments is None:
                    if entry.size:
                        write_all(fd, data, 0)
                else:
                    _write_segments(fd, data, piece.segments)
                    os.ftruncate(fd, entry.size)
                keep_attributes(fd, _attributes(entry), entry.xattrs, ids=self._ids, created_mode=mode)
            finally:
                os.close(fd)
        except OSError as error:
            raise write_refused(error, show(entry.path)) from error

    def _write_chunks(self, part: Chunks, data: memoryview) -> None:
        large = self._large[part.entry.path]
        check_chunks(data, part, large.digests)
        try:
            _write_segments(large.fd, data, part.data)
        except OSError as error:
            raise write_refused(error, show(part.entry.path)) from error

    def _enter(self, path: bytes) -> int:
        """The directory, open; each thread keeps the last one."""
        last: tuple[bytes, int] | None = getattr(self._local, "directory", None)
        if last is not None and last[0] == path:
            return last[1]
        try:
            fd = open_directory(self._tree, path)
        except OSError as error:
            raise translate(error, show(path)) from error
        with self._lock:
            self._directories.append(fd)
            if last is not None:
                self._directories.remove(last[1])
                os.close(last[1])
        self._local.directory = (path, fd)
        return fd


def _write_segments(fd: int, data: memoryview, segments: tuple[tuple[int, int], ...]) -> None:
    used = 0
    for start, stop in segments:
        write_all(fd, data[used : used + stop - start], start)
        used += stop - start


def _attributes(entry: Entry) -> Attributes:
    return Attributes(entry.mode, entry.uid, entry.gid, entry.atime_ns, entry.mtime_ns)


def _length(part: Chunks) -> int:
    """Bytes of the file, holes included, that a run of chunks stands for."""
    return min(part.last * CHUNK, part.entry.size) - part.first * CHUNK

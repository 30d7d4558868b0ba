"""Bring a copy back: parallel ranged reads, every byte checked before it is written, many small files per second.

    staging/tree          what came back
    staging/manifest.db   the entries that are done, and the chunks of large files that are
    staging/dropped/      what an earlier attempt left where something else belongs; deleted

The staged manifest holds what is finished; what it does not hold is fetched. So a killed recall goes on, and what a
verification found wanting is fetched again.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

from tierd.errors import Corrupt, SourceGone
from tierd.fs.linux import allocate, syncfs
from tierd.fs.walk import open_directory, open_root, show, translated
from tierd.storage.base import CopyLimits
from tierd.storage.control import Control, Following
from tierd.storage.manifest import CHUNK, Entry, Manifest, delete_manifest
from tierd.storage.patterns import chosen
from tierd.storage.posix.copy import open_journal
from tierd.storage.posix.crew import Crew
from tierd.storage.posix.limits import Board
from tierd.storage.posix.metadata import write_refused
from tierd.storage.posix.rangecopy import go_direct, round_up, write_chunk
from tierd.storage.posix.staged import empty_dropped, finish_directories, make_private, sweep_strangers
from tierd.storage.posix.trash import delete_tree
from tierd.storage.posix.writing import keep_attributes, make_special
from tierd.storage.s3.bucket import Bucket
from tierd.storage.s3.fetch import LENGTH, OFFSET, PATH, SIZE, Chunks, Files, Range, ranges
from tierd.storage.s3.lanes import Lanes, Patience
from tierd.storage.s3.proof import check_chunks
from tierd.storage.s3.unpackworker import Places, UnpackWorker, attributes, clear, write_segments

MEMORY = 160 << 20
_COMMIT_S = 2.0
_FLUSH = 64 << 20
"""Bytes of small files after which the disk is set to work: left to itself the kernel waits for a tenth of the memory
to be dirty, and the sync at the end would take as long as all the rest."""
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REOPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_WHOLE = -1
"""In place of a chunk's number: the whole file is there."""
_FLUSHED = object()
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
        with Manifest.open(self._manifest) as known:
            content_id = known.content_id()
        _forget_other(staging, content_id, control)
        slots = _Slots(max(self._bucket.settings.part_bytes, 2 * CHUNK) + CHUNK)
        board = Board(limits.processes, None)
        control = Following(control, limits.rate, lambda rate: self._bucket.limit(down=rate))
        with (
            _opened(staging) as places,
            Crew(limits.processes, board, lambda number: UnpackWorker(number, places, slots.memory, board)) as crew,
            Manifest.open(self._manifest) as known,
        ):
            manifest, is_resumed = open_journal(staging / "manifest.db")
            try:
                manifest.set_meta({"unpacks": content_id, "boot": _boot_id(), "complete": None})
                only = _Only(known, limits.only) if limits.only else None
                unpack = _Unpack(
                    self._bucket, known, manifest, places, slots, crew, is_resumed, limits.first, only, control
                )
                unpack.run()
                manifest.end_bulk()
            except BaseException:
                manifest.close()
                raise
        return manifest


@contextmanager
def _opened(staging: Path) -> Iterator[Places]:
    """The working directories, open."""
    fds: list[int] = []
    try:
        with translated(str(staging)):
            for name in ("tree", "dropped"):
                (staging / name).mkdir(mode=0o700, exist_ok=True)
                fds.append(os.open(staging / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        yield Places(tree=fds[0], dropped=fds[1])
    finally:
        for fd in fds:
            os.close(fd)


def _forget_other(staging: Path, content_id: str, control: Control) -> None:
    """What lies in the staging area may be of another copy that this transfer began with, or from before a power cut.

    The notes of what is done are written after the data, and neither is synced: after a crash of the machine the notes
    may be there and the data not.
    """
    path = staging / "manifest.db"
    if not path.exists():
        return
    with suppress(Corrupt), Manifest.open(path) as manifest:
        if (manifest.meta.get("unpacks"), manifest.meta.get("boot")) == (content_id, _boot_id()):
            return
    delete_manifest(path)
    top = open_root(os.fsencode(staging))
    try:
        with translated(str(staging)):
            delete_tree(top, b"tree", control.checkpoint)
    finally:
        os.close(top)


def _boot_id() -> str:
    """Another one after each start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class _Large:
    """A large file while its chunks arrive; `done` holds the chunks that an earlier attempt wrote."""

    def __init__(self, fd: int, entry: Entry, digests: list[bytes], done: set[int], *, is_direct: bool) -> None:
        self.fd, self.entry, self.digests, self.done = fd, entry, digests, done
        self.is_direct = is_direct
        self.missing = len(digests)


class _Slots:
    """Shared memory in equal slots: lanes fill them, the crew empties them."""

    def __init__(self, slot_bytes: int) -> None:
        self.slot_bytes = -(-slot_bytes // 4096) * 4096
        count = max(2, MEMORY // self.slot_bytes)
        self.memory = mmap.mmap(-1, count * self.slot_bytes)
        self.free = [number * self.slot_bytes for number in range(count)]
        self._count = count

    @property
    def are_in_use(self) -> bool:
        """Whether something is being fetched or written."""
        return len(self.free) < self._count


class _Only:
    """The entries of a part: what was chosen, the directories above it, and the name under which linked data lies."""

    def __init__(self, known: Manifest, patterns: tuple[str, ...]) -> None:
        matches = chosen(patterns)
        self.paths = {b""}
        for entry in known.entries():
            if entry.type != "d" and matches(entry.path):
                self.paths |= {entry.path, entry.link_group or entry.path}
        for path in list(self.paths):
            while path := path.rpartition(b"/")[0]:
                if path in self.paths:
                    break
                self.paths.add(path)


class _Unpack:
    """One attempt."""

    def __init__(
        self,
        bucket: Bucket,
        known: Manifest,
        manifest: Manifest,
        places: Places,
        slots: _Slots,
        crew: Crew,
        is_resumed: bool,
        first: tuple[str, ...],
        only: _Only | None,
        control: Control,
    ) -> None:
        self._bucket, self._known, self._manifest = bucket, known, manifest
        self._places, self._slots, self._crew = places, slots, crew
        self._is_resumed, self._first, self._control = is_resumed, first, control
        self._only = None if only is None else only.paths
        self._attempt = int(manifest.meta.get("attempt", "0")) + 1
        self._ids = (os.geteuid(), os.getegid())
        self._large: dict[bytes, _Large] = {}
        self._fetched: deque[tuple[Files, int]] = deque()
        self._at_work: dict[int, Files] = {}
        self._next_commit = time.monotonic() + _COMMIT_S
        self._copied = 0
        self._dirty = 0
        self._is_flushing = False

    def run(self) -> None:
        manifest, control, tree = self._manifest, self._control, self._places.tree
        manifest.execute(_FETCHED)
        manifest.set_meta({"attempt": str(self._attempt)})
        make_private(tree)
        empty_dropped(self._places.dropped, control)
        control.checkpoint("copy")
        settings = self._bucket.settings
        try:
            if self._is_resumed:
                self._record_files()
            self._make_directories()
            patience = self._bucket.on_wait = Patience(control)
            with Lanes(settings.connections, 0, patience, on_message=self._crew.wake) as lanes:
                self._lanes = lanes
                for part in ranges(self._known, range_bytes=settings.part_bytes, first=self._first, only=self._wants):
                    self._start(part)
                while self._slots.are_in_use:
                    self._move_on()
                self._crew.dismiss()
                lanes.run(self._flush)  # the disk works while the rest is written
                self._finish()
                lanes.drain()
        finally:
            for large in self._large.values():
                os.close(large.fd)
            manifest.commit()
        control.checkpoint("copy: sync")
        manifest.set_meta({"complete": "1", "copied_bytes": str(self._copied)})
        with translated("the copy"):
            syncfs(tree)

    def _finish(self) -> None:
        """All files are there: make what else belongs to the tree, and see that nothing is missing."""
        manifest, control = self._manifest, self._control
        self._record_files()
        control.checkpoint("copy: links")
        self._make_others()
        if self._is_resumed:
            sweep_strangers(self._places.tree, self._places.dropped, manifest, control)
        control.checkpoint("copy: directories")
        finish_directories(self._places.tree, manifest, control, is_new=not self._is_resumed)
        manifest.execute("DROP TABLE fetched")
        if not self._is_complete():
            raise Corrupt("what came out of the bucket is not what the copy's manifest says", hint="It is tried again.")

    def _wants(self, path: bytes) -> bool:
        return self._only is None or path in self._only

    def _is_complete(self) -> bool:
        if self._only is None:
            return self._manifest.content_id() == self._known.content_id()
        # Each entry is as the copy's manifest says: it came from there, and its bytes were checked.
        return {entry.path for entry in self._manifest.entries()} == self._only

    # -- directories, links, devices -----------------------------------------------------------------------

    def _make_directories(self) -> None:
        above: tuple[bytes, int] | None = None
        try:
            for number, entry in enumerate(self._known.entries(type="d")):
                if number % 256 == 0:
                    self._control.checkpoint()
                if not self._wants(entry.path):
                    continue
                self._manifest.add([self._row(entry)])
                if not entry.path:
                    continue
                parent, _, name = entry.path.rpartition(b"/")
                if above is None or above[0] != parent:
                    if above is not None:
                        os.close(above[1])
                    above = (parent, open_directory(self._places.tree, parent))
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
            # Of an earlier attempt: it may have its final mode, and a default ACL that new files would inherit.
            if os.geteuid() != 0:
                os.chmod(name, 0o700, dir_fd=parent)
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                make_private(fd)
            finally:
                os.close(fd)

    def _make_others(self) -> None:
        """Links, FIFOs, devices, and the further names of hard-linked entries."""
        for number, entry in enumerate(self._known.entries(without_data=True)):
            if number % 256 == 0:
                self._control.checkpoint()
            if entry.type == "d" or not self._wants(entry.path):
                continue
            is_further = entry.link_group not in (None, entry.path)
            try:
                self._make_other(entry, is_further)
            except OSError as error:
                raise write_refused(error, show(entry.path)) from error
            self._manifest.add([self._row(entry)])

    def _make_other(self, entry: Entry, is_further: bool) -> None:
        parent, _, name = entry.path.rpartition(b"/")
        fd = open_directory(self._places.tree, parent)
        try:
            clear(fd, name, self._places.dropped)
            if is_further:
                above, _, leader = (entry.link_group or b"").rpartition(b"/")
                source = open_directory(self._places.tree, above)
                try:
                    os.link(leader, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
                finally:
                    os.close(source)
                self._control.progress(bytes=0, files=int(entry.type == "f"))
                return
            kind = _KINDS[entry.type]
            make_special(fd, name, kind, attributes(entry), entry.rdev, entry.target, entry.xattrs, ids=self._ids)
        finally:
            os.close(fd)

    def _row(self, entry: Entry) -> Entry:
        """As recorded in the staged manifest: there is no tree that this one was read from."""
        return entry._replace(
            source_inode=None, source_ctime_ns=None, copy_inode=None, copy_ctime_ns=None, attempt=self._attempt
        )

    # -- files: the caller's thread --------------------------------------------------------------------------

    def _start(self, part: Range) -> None:
        """Have a range fetched, as soon as there is a free slot for it."""
        if isinstance(part, Files):
            part = self._missing(part) if self._is_resumed else part
            if not part.items:
                return
        elif not self._is_missing(part):
            return
        while not self._slots.free:
            self._move_on()
        slot = self._slots.free.pop()
        self._lanes.run(lambda: self._fetch(part, slot))

    def _move_on(self) -> None:
        """Pass on what was fetched, take what was written, wait for either."""
        for message in self._lanes.messages():
            if message is _FLUSHED:
                self._is_flushing = False
                continue
            part, slot = cast(tuple[Range, int], message)
            if isinstance(part, Chunks):
                self._written_chunks(part, slot)
            else:
                self._fetched.append((part, slot))
        while self._fetched:
            part, slot = self._fetched[0]
            if not self._crew.post(self._job(part, slot)):
                break
            self._at_work[slot] = part
            self._fetched.popleft()
        self._crew.take(self._written, self._control)
        self._lanes.look()
        if time.monotonic() > self._next_commit:
            self._next_commit = time.monotonic() + _COMMIT_S
            self._manifest.commit()

    def _job(self, part: Files, slot: int) -> tuple[object, ...]:
        """What a process is told; see `UnpackWorker`."""
        return (slot, part.object.key, part.start, part.items)

    def _missing(self, part: Files) -> Files:
        """The part without the files that an earlier attempt brought."""
        found: dict[bytes, Entry] = {}
        paths = [file[PATH] for file in part.items]
        for at in range(0, len(paths), 500):
            found |= self._manifest.find_all(paths[at : at + 500])
        missing = [file for file in part.items if file[PATH] not in found]
        done = sum(file[SIZE] for file in part.items if file[PATH] in found)
        self._control.progress(bytes=done, files=len(part.items) - len(missing))
        if not missing:
            return Files(part.object, 0, 0, [])
        return Files(part.object, missing[0][OFFSET], missing[-1][OFFSET] + missing[-1][LENGTH], missing)

    def _is_missing(self, part: Chunks) -> bool:
        path, size = part.item[PATH], part.item[SIZE]
        if self._is_resumed and self._manifest.find(path) is not None:
            if part.first == 0:
                self._control.progress(bytes=size, files=1)
            return False
        large = self._large.get(path)
        if large is None:
            entry = self._known.find(path)
            assert entry is not None
            large = self._large[path] = self._open_large(entry, is_plain=part.object.kind == "file")
        if all(chunk in large.done for chunk in range(part.first, part.last)):
            self._control.progress(bytes=part.size, files=0)
            self._note_chunks(large, part)
            return False
        return True

    def _open_large(self, entry: Entry, *, is_plain: bool) -> _Large:
        """The file in the tree: what an earlier attempt left of it, else a new one."""
        digests = self._known.chunks(entry.path)
        parent, _, name = entry.path.rpartition(b"/")
        done: set[int] = set()
        try:
            directory = open_directory(self._places.tree, parent)
            try:
                rows = self._manifest.execute("SELECT chunk FROM fetched WHERE path = ?", (entry.path,))
                fd = -1
                if rows:
                    with suppress(OSError):
                        fd = os.open(name, _REOPEN, dir_fd=directory)
                        done = {int(str(row[0])) for row in rows}
                if fd < 0:
                    clear(directory, name, self._places.dropped)
                    self._manifest.execute("DELETE FROM fetched WHERE path = ?", (entry.path,))
                    fd = os.open(name, _WRITE, 0o600, dir_fd=directory)
            finally:
                os.close(directory)
            os.ftruncate(fd, entry.size)
            if is_plain:
                _reserve(fd, entry.size)
        except OSError as error:
            raise write_refused(error, show(entry.path)) from error
        # Chunks of a plain file lie at the start of a slot: they can go straight from memory to the device.
        return _Large(fd, entry, digests, done, is_direct=is_plain and go_direct(fd))

    def _written(self, slot: int) -> None:
        """A process has written the files that lay in a slot."""
        part = self._at_work.pop(slot)
        self._slots.free.append(slot)
        size = sum(file[SIZE] for file in part.items)
        self._copied += size
        self._dirty += size
        if self._dirty >= _FLUSH and not self._is_flushing:
            self._dirty, self._is_flushing = 0, True
            self._lanes.run(self._flush)
        rows = [(file[PATH], _WHOLE) for file in part.items]
        self._manifest.execute_many("INSERT OR REPLACE INTO fetched VALUES (?, ?)", rows)

    def _written_chunks(self, part: Chunks, slot: int) -> None:
        """A lane has written some chunks of a large file."""
        self._slots.free.append(slot)
        self._copied += part.size
        self._control.progress(bytes=part.size, files=0)
        path = part.item[PATH]
        rows = [(path, chunk) for chunk in range(part.first, part.last)]
        self._manifest.execute_many("INSERT OR REPLACE INTO fetched VALUES (?, ?)", rows)
        self._note_chunks(self._large[path], part)

    def _record_files(self) -> None:
        """Turn the notes of files that were written into entries, all of them at once."""
        manifest = self._manifest
        manifest.commit()
        manifest.execute("ATTACH DATABASE ? AS known", (str(self._known.path),))
        unset = {"source_inode", "source_ctime_ns", "copy_inode", "copy_ctime_ns"}
        values = ", ".join("NULL" if c in unset else "?" if c == "attempt" else f"e.{c}" for c in Entry._fields)
        manifest.execute(
            f"INSERT OR REPLACE INTO entry ({', '.join(Entry._fields)}) SELECT {values}"
            f" FROM fetched f JOIN known.entry e ON e.path = f.path WHERE f.chunk = {_WHOLE}",
            (self._attempt,),
        )
        manifest.execute(
            "INSERT OR REPLACE INTO chunks SELECT c.path, c.digests FROM known.chunks c"
            f" JOIN fetched f ON f.path = c.path WHERE f.chunk = {_WHOLE}"
        )
        manifest.execute(f"DELETE FROM fetched WHERE chunk = {_WHOLE}")
        manifest.commit()
        manifest.execute("DETACH DATABASE known")

    def _note_chunks(self, large: _Large, part: Chunks) -> None:
        """Some chunks of a large file are there; with the last ones it gets its owner, mode and times."""
        large.missing -= part.last - part.first
        if large.missing:
            return
        entry = large.entry
        try:
            os.ftruncate(large.fd, entry.size)
            keep_attributes(large.fd, attributes(entry), entry.xattrs, ids=self._ids, created_mode=None)
        except OSError as error:
            raise write_refused(error, show(entry.path)) from error
        os.close(self._large.pop(entry.path).fd)
        self._manifest.add([self._row(entry)])
        self._manifest.add_chunks(entry.path, b"".join(large.digests))
        self._manifest.execute("DELETE FROM fetched WHERE path = ?", (entry.path,))
        self._control.progress(bytes=0, files=1)

    # -- in the lanes --------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        with translated("the copy"):
            syncfs(self._places.tree)
        self._lanes.tell(_FLUSHED)

    def _fetch(self, part: Range, slot: int) -> None:
        try:
            with memoryview(self._slots.memory) as whole, whole[slot : slot + part.stop - part.start] as view:
                if len(view):
                    self._bucket.get_into(part.object.key, view, start=part.start, etag=part.object.etag)
                if isinstance(part, Chunks):
                    self._write_chunks(part, view, slot)
        except SourceGone as error:
            raise SourceGone(
                f"{part.object.key} is missing from the bucket: the copy is not complete any more",
                hint="Restore that object from a version of the bucket, or use another copy.",
            ) from error
        self._lanes.tell((part, slot))

    def _write_chunks(self, part: Chunks, view: memoryview, slot: int) -> None:
        """Check and write chunks of a large file: there is little to compute, and disks like several writers."""
        path, size = part.item[PATH], part.item[SIZE]
        large = self._large[path]
        digests = large.digests[part.first : part.last]
        check_chunks(view, path, part.object.key, size, part.first, digests, part.data)
        try:
            if large.is_direct:
                # Past the page cache; what lies behind the last byte is cut off when the file is finished.
                with memoryview(self._slots.memory) as whole, whole[slot : slot + round_up(len(view))] as padded:
                    write_chunk(large.fd, padded, part.first * CHUNK, len(view))
            else:
                write_segments(large.fd, view, part.data)
        except OSError as error:
            raise write_refused(error, show(path)) from error


def _reserve(fd: int, size: int) -> None:
    """Reserve room where the file system can."""
    try:
        allocate(fd, size)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise

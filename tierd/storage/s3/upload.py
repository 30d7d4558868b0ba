"""Upload a tree: small files in tar packs straight from the source, large ones as objects of their own.

    staging/manifest.db    the manifest: entries, index and journal while it runs

What an earlier attempt uploaded is used as far as the source still is what it was: pack by pack, part by part.
Nothing is trusted for that: `S3Storage.verify` asks the store, or reads everything back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import cast

from blake3 import blake3

from tierd.errors import Corrupt, SourceChanged
from tierd.fs.linux import is_cached
from tierd.fs.walk import Names, open_directory, scan, show, translate, translated
from tierd.model.s3 import S3Settings
from tierd.storage.control import Control
from tierd.storage.manifest import CHUNK, Entry, Manifest
from tierd.storage.posix.copy import open_journal
from tierd.storage.posix.links import check_groups, groups
from tierd.storage.posix.metadata import read_xattrs
from tierd.storage.posix.rangecopy import data_segments, is_sparse
from tierd.storage.posix.reading import (
    Row,
    WriterCheck,
    entry_row,
    entry_type,
    look_at_special,
    open_file,
    read_special,
    settled,
)
from tierd.storage.s3 import layout, tar
from tierd.storage.s3.bucket import ObjectInfo
from tierd.storage.s3.checksums import to_hex
from tierd.storage.s3.index import Index, Object, Piece, Segments
from tierd.storage.s3.journal import Begun, Journal, SentPart
from tierd.storage.s3.lanes import Lanes, Patience
from tierd.storage.s3.large import LargeDone, LargeFile, LargeUpload, PartSent
from tierd.storage.s3.sink import Sink
from tierd.storage.s3.stream import Stream

MANIFEST = "manifest.db"
MEMORY = 96 << 20
"""Bytes of all buffers of one upload: enough for its parts under way; more would only be read ahead of the store."""
_BATCH = 128
_COMMIT_S = 0.5
_PACK_ENTRIES = 20_000

Resume = Callable[[Begun, list[SentPart]], list[SentPart] | None]
"""Which parts of an upload the store has; None when it knows no such upload any more."""


@dataclass
class _Pack:
    """A pack in the making."""

    number: int
    kind: str
    stream: Stream
    rows: list[Row] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    chunks: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class _PackDone:
    pack: _Pack
    info: ObjectInfo
    crc64nvme: int


def upload_tree(
    source_fd: int, staging: Path, location: str, sink: Sink, resume: Resume, settings: S3Settings, patience: Patience
) -> Manifest:
    """Upload the tree below `source_fd` to the copy at `location`, going on where an earlier call stopped.

    Returns the open manifest, with the index of the copy.

    Raises:
        SourceChanged, SourceBusy, Unsupported, Denied: as `copy_tree`.
        StorageError: the store cannot take it.
        Interrupted: `control` asked to stop; the next call goes on.
    """
    manifest, is_resumed = open_journal(staging / MANIFEST)
    try:
        with Lanes(settings.connections, MEMORY, patience) as lanes:
            upload = _Upload(source_fd, manifest, location, sink, resume, settings, lanes, patience.control)
            upload.run(is_resumed)
        manifest.end_bulk()
    except BaseException:
        manifest.close()
        raise
    return manifest


class _Upload:
    """One attempt."""

    def __init__(
        self,
        source: int,
        manifest: Manifest,
        location: str,
        sink: Sink,
        resume: Resume,
        settings: S3Settings,
        lanes: Lanes,
        control: Control,
    ) -> None:
        self._source, self._manifest, self._location = source, manifest, location
        self._sink, self._resume, self._settings, self._lanes, self._control = sink, resume, settings, lanes, control
        self._index, self._journal = Index(manifest), Journal(manifest)
        self._device = os.fstat(source).st_dev
        self._writers = WriterCheck()
        self._pack: _Pack | None = None
        self._number = max([self._index.next_number(), *(u.number + 1 for u in self._journal.all())])
        self._groups: dict[bytes, list[bytes]] = {}
        self._large: dict[bytes, tuple[Row, LargeUpload]] = {}
        self._extra = bytearray(1)
        self._met = 0
        self._next_commit = time.monotonic() + _COMMIT_S
        self._up_to = min(settings.pack_up_to, settings.part_bytes, settings.pack_bytes)
        self._attempt = int(manifest.meta.get("attempt", "0")) + 1

    def run(self, is_resumed: bool) -> None:
        manifest = self._manifest
        manifest.set_meta({"attempt": str(self._attempt), "complete": None, "location": None, "content_id": None})
        manifest.execute("DELETE FROM link_name")
        try:
            if is_resumed:
                self._drop_outdated()
            self._control.checkpoint("copy")
            for names in scan(self._source):
                self._directory(names)
            check_groups(manifest)
            for paths, _ in groups(manifest):
                self._group(paths)
            self._end_pack()
            self._finish_large()
            manifest.execute("DELETE FROM entry WHERE attempt < ?", (self._attempt,))
            manifest.execute("DELETE FROM chunks WHERE path NOT IN (SELECT path FROM entry)")
            manifest.execute("DELETE FROM piece WHERE path NOT IN (SELECT path FROM entry)")
            manifest.execute("DELETE FROM link_name")
            self._control.checkpoint("copy: directories")
            self._tree()
            manifest.content_id()  # it is kept; now it costs no time: the store is busy with the last packs
            self._settle()
            self._check_complete()
        finally:
            self._take_messages()
            manifest.commit()
        manifest.set_meta({"complete": "1"})

    def _check_complete(self) -> None:
        """A last line of defence against an error of ours: everything that was met is recorded, and has its bytes."""
        (found,) = cast(tuple[int], self._manifest.execute("SELECT count(*) FROM entry")[0])
        without = self._manifest.execute(
            "SELECT e.path FROM entry e WHERE e.type = 'f' AND coalesce(e.link_group, e.path) NOT IN"
            " (SELECT p.path FROM piece p JOIN object o ON o.number = p.object) LIMIT 1"
        )
        if found != self._met or without:
            raise Corrupt(f"{self._met} entries were read and {found} recorded: the upload is not used")

    # -- what an earlier attempt left ----------------------------------------------------------------------

    def _drop_outdated(self) -> None:
        """Forget every object with a file that is not as it was read: its other files are sent again as well.

        A pack that still held a file which is gone would give it back to whoever unpacks it.
        """
        self._control.checkpoint("copy: look at what was uploaded before")
        self._index.drop_unfinished()
        outdated: set[int] = {item.number for item in self._index.objects("tree")}
        for item in self._index.objects():
            self._control.checkpoint()
            if any(not self._is_same(piece.path) for piece in self._index.pieces(item.number)):
                outdated.add(item.number)
        for number in outdated:
            for piece in self._index.pieces(number):
                self._manifest.remove([piece.path])
            self._index.remove(number)
        known = "SELECT path FROM piece UNION SELECT e.path FROM entry e JOIN piece p ON e.link_group = p.path"
        self._manifest.execute(f"DELETE FROM entry WHERE path NOT IN ({known})")
        self._manifest.commit()

    def _is_same(self, path: bytes) -> bool:
        entry = self._manifest.find(path)
        if entry is None:
            return False
        parent, _, name = path.rpartition(b"/")
        try:
            fd = open_directory(self._source, parent)
        except OSError:
            return False
        try:
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError:
            return False
        finally:
            os.close(fd)
        known = (entry.type, entry.source_inode, entry.size, entry.mtime_ns, entry.source_ctime_ns)
        return known == (entry_type(st), st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)

    # -- walking -------------------------------------------------------------------------------------------

    def _directory(self, names: Names) -> None:
        self._met += names.is_first + sum(kind != "d" for _, _, kind in names.entries)
        if names.is_first:
            with translated(show(names.path)):
                xattrs = read_xattrs(names.fd)
            self._manifest.add([(*entry_row(names.path, "d", names.stat, 0, xattrs), self._attempt)])
        files = [(inode, name) for inode, name, kind in names.entries if kind == "f"]
        for at in range(0, len(files), _BATCH):
            self._control.checkpoint()
            self._files(names, files[at : at + _BATCH])
            self._take_messages()
        for inode, name, kind in names.entries:
            if kind not in "fd":
                self._special(names, inode, name)

    def _files(self, names: Names, files: list[tuple[int, bytes]]) -> None:
        """Open a batch and ask the kernel to read ahead, then read one by one."""
        prefix = names.path + b"/" if names.path else b""
        known = self._manifest.find_all([prefix + name for _, name in files])
        opened: list[tuple[bytes, int, os.stat_result, bool]] = []
        try:
            for inode, name in files:
                full = prefix + name
                fd, st = open_file(names.fd, name, inode, self._device, full)
                if st.st_nlink > 1:
                    os.close(fd)
                    self._manifest.execute(
                        "INSERT OR REPLACE INTO link_name VALUES (?, ?, ?)", (inode, full, st.st_nlink)
                    )
                    continue
                entry = known.get(full)
                if entry is not None and _is_done(entry, st):
                    os.close(fd)
                    self._keep(entry)
                    continue
                cached = is_cached(fd) is not False
                if not cached:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
                opened.append((full, fd, st, cached))
            while opened:
                full, fd, st, cached = opened.pop(0)  # from here on it closes the file, also when it fails
                self._regular(full, fd, st, cached, group=None)
        finally:
            for _, fd, _, _ in opened:
                os.close(fd)

    def _keep(self, entry: Entry) -> None:
        """A file that an earlier attempt uploaded."""
        self._manifest.execute("UPDATE entry SET attempt = ? WHERE path = ?", (self._attempt, entry.path))
        self._control.progress(bytes=entry.size, files=1)

    def _special(self, names: Names, inode: int, name: bytes) -> None:
        full = names.path + b"/" + name if names.path else name
        st = look_at_special(names.fd, name, inode, full)
        if st.st_nlink > 1:
            self._manifest.execute("INSERT OR REPLACE INTO link_name VALUES (?, ?, ?)", (inode, full, st.st_nlink))
            return
        self._record_special(names.fd, name, full, st, None)

    def _record_special(self, fd: int, name: bytes, full: bytes, st: os.stat_result, group: bytes | None) -> Row:
        target, xattrs = read_special(fd, name, st, full)
        size = 0 if target is None else len(target)
        row = entry_row(full, entry_type(st) or "", st, size, xattrs, group=group, target=target)
        self._manifest.add([(*row, self._attempt)])
        return row

    # -- hard links ----------------------------------------------------------------------------------------

    def _group(self, paths: list[bytes]) -> None:
        """Upload the first name of a group; the others are recorded when its digest is known."""
        leader = paths[0]
        parent, _, name = leader.rpartition(b"/")
        try:
            directory = open_directory(self._source, parent)
            st = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            raise translate(error, show(leader)) from error
        try:
            if st.st_nlink != len(paths):
                raise SourceChanged(f"the hard links of {show(leader)} changed while the tree was read")
            if entry_type(st) != "f":
                seen = look_at_special(directory, name, st.st_ino, leader)
                row = self._record_special(directory, name, leader, seen, leader)
                self._manifest.add([((other, *row[1:], self._attempt)) for other in paths[1:]])
                return
            self._groups[leader] = paths[1:]
            entry = self._manifest.find(leader)
            if entry is not None and entry.link_group == leader and _is_done(entry, st):
                self._keep(entry)
                self._record_group(tuple(entry[:-1]))
                return
            fd, st = open_file(directory, name, st.st_ino, self._device, leader)
            self._regular(leader, fd, st, is_cached(fd) is not False, group=leader)
        finally:
            os.close(directory)
        self._take_messages()

    def _record_group(self, row: Row) -> None:
        """The other names of a group, as their leader; what its object says of it they need not repeat."""
        others = self._groups.pop(row[0], [])
        self._manifest.add([(other, *row[1:], self._attempt) for other in others])
        self._control.progress(bytes=0, files=len(others))

    # -- regular files -------------------------------------------------------------------------------------

    def _regular(self, full: bytes, fd: int, st: os.stat_result, cached: bool, *, group: bytes | None) -> None:
        """Upload an open file; it is closed when it was read."""
        is_handed_over = False
        try:
            st = settled(fd, st, full)
            self._writers.refuse(fd, full)
            try:
                xattrs = read_xattrs(fd)
                segments = tuple(data_segments(fd, 0, st.st_size)) if is_sparse(st) else None
            except OSError as error:
                raise translate(error, show(full)) from error
            if segments == ((0, st.st_size),):
                segments = None
            if st.st_size > self._up_to or (segments is not None and st.st_size > CHUNK):
                is_handed_over = True
                self._start_large(full, fd, st, xattrs, segments, cached, group)
                return
            self._small(full, fd, st, xattrs, segments, group)
            if not cached:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            if not is_handed_over:
                os.close(fd)

    def _small(
        self,
        full: bytes,
        fd: int,
        st: os.stat_result,
        xattrs: bytes | None,
        segments: Segments | None,
        group: bytes | None,
    ) -> None:
        row = entry_row(full, "f", st, st.st_size, xattrs, group=group)
        head = tar.header(Entry._make((*row, self._attempt)), segments=segments)
        pack = self._open_pack()
        pack.stream.write(head)
        offset = pack.stream.size
        if segments is None:
            length, digest, chunks = st.st_size, *self._read_whole(pack.stream, fd, st.st_size, full)
        else:
            length, digest, chunks = *self._read_sparse(pack.stream, fd, st.st_size, segments, full), b""
        pack.stream.write(tar.padding(length))
        pack.rows.append((*row[:12], digest, *row[13:]))
        if length or segments is not None:
            pack.pieces.append(Piece(full, pack.number, offset, length, segments))
        else:
            pack.pieces.append(Piece(full, pack.number, offset, 0, None))
        if chunks:
            pack.chunks.append((full, chunks))
        self._control.progress(bytes=st.st_size, files=1)
        if pack.stream.size >= self._settings.pack_bytes or len(pack.rows) >= _PACK_ENTRIES:
            self._end_pack()

    def _read_whole(self, stream: Stream, fd: int, size: int, full: bytes) -> tuple[bytes, bytes]:
        """Read a file into the pack; returns its digest and those of its chunks."""
        if not size:
            if os.pread(fd, 1, 0):
                raise SourceChanged(f"{show(full)} changed its size while it was read")
            return blake3(b"").digest(), b""
        views = stream.room(size)
        try:
            got = os.preadv(fd, [*views, self._extra], 0)
        except OSError as error:
            raise translate(error, show(full)) from error
        if got != size:
            raise SourceChanged(f"{show(full)} changed its size while it was read")
        if size <= CHUNK:
            hasher = blake3()
            for view in views:
                hasher.update(view)
            digest, chunks = hasher.digest(), b""
        else:
            chunks = b"".join(_chunk_digests(views))
            digest = blake3(chunks).digest()
        stream.advance(size)
        return digest, chunks

    def _read_sparse(self, stream: Stream, fd: int, size: int, segments: Segments, full: bytes) -> tuple[int, bytes]:
        """Read the data of a small file with holes; returns how much that is, and the digest of the whole."""
        whole = bytearray(size)
        length = 0
        for start, stop in segments:
            with memoryview(whole)[start:stop] as view:
                if os.preadv(fd, [view], start) != stop - start:
                    raise SourceChanged(f"{show(full)} changed its size while it was read")
                stream.write(view)
            length += stop - start
        return length, blake3(whole).digest()

    # -- packs -----------------------------------------------------------------------------------------------

    def _open_pack(self, kind: str = "pack") -> _Pack:
        if self._pack is None:
            number = self._take_number()
            key = layout.pack_key(self._location, number) if kind == "pack" else layout.tree_key(self._location)

            def on_done(info: ObjectInfo, crc64nvme: int) -> None:
                self._lanes.tell(_PackDone(pack, info, crc64nvme))

            stream = Stream(self._sink, self._lanes, key, self._settings.part_bytes, on_done)
            pack = self._pack = _Pack(number, kind, stream)
        return self._pack

    def _end_pack(self) -> None:
        if self._pack is not None:
            pack, self._pack = self._pack, None
            pack.stream.write(tar.END)
            pack.stream.close()
            self._record(pack)

    def _take_number(self) -> int:
        self._number += 1
        return self._number - 1

    def _tree(self) -> None:
        """The last pack: directories, links and devices, each with everything it has."""
        pack = self._open_pack("tree")
        for number, entry in enumerate(self._manifest.entries(without_data=True)):
            if number % 256 == 0:
                self._control.checkpoint()
            is_further = entry.link_group not in (None, entry.path)
            pack.stream.write(tar.header(entry, link_to=entry.link_group if is_further else None))
        self._end_pack()

    # -- large files -----------------------------------------------------------------------------------------

    def _start_large(
        self,
        full: bytes,
        fd: int,
        st: os.stat_result,
        xattrs: bytes | None,
        segments: Segments | None,
        cached: bool,
        group: bytes | None,
    ) -> None:
        row = entry_row(full, "f", st, st.st_size, xattrs, group=group)
        known = self._journal.find(full)
        number = known.number if known is not None else self._take_number()
        key = layout.file_key(self._location, full, self._settings.prefix)
        is_plain = segments is None and not xattrs and not st.st_mode & 0o7000
        kind = "file" if is_plain and key is not None else "solo"
        head = tail = b""
        if kind == "solo":
            key = layout.pack_key(self._location, number)
            entry = Entry._make((*row, self._attempt))
            head = tar.header(entry, segments=segments)
            tail = tar.padding(tar.data_size(entry, segments)) + tar.END
        file = LargeFile(
            path=full, fd=fd, status=st, number=number, key=key or "", kind=kind, segments=segments,
            part_bytes=self._settings.part_bytes, head=head, tail=tail, metadata=_metadata(st), was_cached=cached,
        )  # fmt: skip
        parts: tuple[Begun, list[SentPart]] | None = None
        if known is not None and known.stamp == file.stamp and known.key == file.key:
            sent = self._resume(known, self._journal.parts(full))
            parts = (known, sent) if sent is not None else None
        upload = LargeUpload(file, self._sink, self._lanes, parts)
        self._large[full] = row, upload
        self._control.progress(bytes=upload.start(self._begun), files=0)

    def _begun(self, upload: Begun) -> None:
        self._journal.begin(upload)
        self._manifest.commit()

    # -- recording -------------------------------------------------------------------------------------------

    def _finish_large(self) -> None:
        """Wait until all large files are with the store: only then is known what is in them."""
        while self._large:
            self._lanes.wait()
            self._take_messages()

    def _settle(self) -> None:
        """Wait until everything that was handed over is with the store, and recorded."""
        while not self._lanes.is_idle:
            self._lanes.wait()
            self._take_messages()
        self._lanes.drain()
        self._take_messages()

    def _take_messages(self) -> None:
        messages, sent = self._lanes.messages(), list[PartSent]()
        for message in messages:
            match message:
                case _PackDone(pack=pack, info=info):
                    value = to_hex(message.crc64nvme)
                    self._index.add(Object(pack.number, pack.stream.key, pack.kind, info.size, value, info.etag))
                case PartSent():
                    sent.append(message)
                    if message.path:
                        self._journal.add(message.path, message.part)
                case LargeDone():
                    self._record_large(message)
        if messages or time.monotonic() > self._next_commit:
            self._next_commit = time.monotonic() + _COMMIT_S
            self._manifest.commit()
        for part in sent:  # told when it is recorded: what was said to be there is not sent again
            if part.path:
                self._large[part.path][1].recorded(part.part)
            self._control.progress(bytes=part.file_bytes, files=0)

    def _record(self, pack: _Pack) -> None:
        """Record what a pack will hold while it is sent. Until its object is recorded, none of it counts."""
        self._index.place(pack.pieces)
        self._manifest.add([(*row, self._attempt) for row in sorted(pack.rows, key=itemgetter(0))])
        for path, digests in pack.chunks:
            self._manifest.add_chunks(path, digests)
        for row in pack.rows:
            if row[11] is not None:
                self._record_group(row)

    def _record_large(self, done: LargeDone) -> None:
        file = done.file
        os.close(file.fd)
        row, _ = self._large.pop(file.path)
        is_chunked = file.status.st_size > CHUNK
        row = (*row[:12], blake3(done.digests).digest() if is_chunked else done.digests, *row[13:])
        self._manifest.add([(*row, self._attempt)])
        if is_chunked:
            self._manifest.add_chunks(file.path, done.digests)
        item = Object(file.number, file.key, file.kind, done.size, to_hex(done.crc64nvme), done.etag)
        self._index.add(item)
        self._index.place([Piece(file.path, file.number, len(file.head), file.data_bytes, file.segments)])
        self._journal.end(file.path)
        if row[11] is not None:
            self._record_group(row)
        self._control.progress(bytes=0, files=1)


def _is_done(entry: Entry, st: os.stat_result) -> bool:
    """Whether what an earlier attempt recorded is this file in this state."""
    known = (entry.source_inode, entry.size, entry.mtime_ns, entry.source_ctime_ns)
    return entry.digest is not None and known == (st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)


def _chunk_digests(views: list[memoryview]) -> Iterator[bytes]:
    """The digest of every 4 MiB of some bytes that lie in pieces."""
    hasher, left = blake3(), CHUNK
    for view in views:
        at = 0
        while at < len(view):
            n = min(left, len(view) - at)
            hasher.update(view[at : at + n])
            at, left = at + n, left - n
            if not left:
                yield hasher.digest()
                hasher, left = blake3(), CHUNK
    if left < CHUNK:
        yield hasher.digest()


def _metadata(st: os.stat_result) -> dict[str, str]:
    """What other programs restore of a file: the keys and forms that rclone uses (`rclone copy --metadata`)."""
    sign = "-" if st.st_mtime_ns < 0 else ""
    seconds, nanos = divmod(abs(st.st_mtime_ns), 1_000_000_000)
    return {
        "mtime": f"{sign}{seconds}.{nanos:09}",
        "mode": f"{st.st_mode:o}",
        "uid": str(st.st_uid),
        "gid": str(st.st_gid),
    }


def is_complete(staging: Path) -> bool:
    """Whether an upload came to its end."""
    path = staging / MANIFEST
    if not path.exists():
        return False
    with closing(Manifest.open(path)) as manifest:
        return manifest.meta.get("complete") is not None

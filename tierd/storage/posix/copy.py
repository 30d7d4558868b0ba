"""Copy a tree into a staging directory, with everything it has, resumable after a kill at any instant.

    staging/tree          the copy
    staging/manifest.db   the manifest, which is the journal while the copy runs
    staging/parts/        records of large files in the making
    staging/dropped/      what an earlier attempt left where something else belongs; deleted

This process walks and records; the crew copies. Nothing here is trusted because it was recorded: `verify_copy`
reads the whole copy back from the device, and what it finds wanting is copied again by the next attempt.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tierd.errors import Conflict, Corrupt, NotFound
from tierd.fs.linux import syncfs
from tierd.fs.walk import Names, open_directory, open_root, scan, show, translate, translated
from tierd.storage.control import Control, Following, Rate
from tierd.storage.manifest import Entry, Manifest, delete_manifest
from tierd.storage.patterns import Wanted
from tierd.storage.posix.copyfile import Places
from tierd.storage.posix.copyworker import CopyWorker, Stamp
from tierd.storage.posix.crew import Answer, Crew, Job
from tierd.storage.posix.limits import Board
from tierd.storage.posix.links import check_groups, groups
from tierd.storage.posix.metadata import read_xattrs, write_refused
from tierd.storage.posix.staged import empty_dropped, finish_directories, make_private, sweep_strangers

_BATCH = 128
_COMMIT_S = 2.0
_LOCK_WAIT_S = 5.0
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True)
class CopyOptions:
    """How hard a copy may work.

    Attributes:
        processes: that copy; `threads`: of each, for files larger than 4 MiB.
        rate: of all together.
        only: which paths to copy, with the directories above them; None: all.
    """

    processes: int = 2
    threads: int = 3
    rate: Rate = field(default_factory=Rate)
    only: Wanted | None = None


def copy_tree(source_fd: int, staging: Path, *, options: CopyOptions | None = None, control: Control) -> Manifest:
    """Copy the tree below `source_fd` to `staging/tree`, going on where an earlier call stopped.

    Forks: call it before the process starts threads. Returns the open manifest; its meta says what this attempt
    did (`attempt`, `copied_bytes`). The copy is durable but not verified.

    Raises:
        SourceChanged: the source changes while it is read.
        Unsupported: an entry cannot be kept: a socket, a mount point, a hard link to a file outside.
        Denied: an entry may not be read, or its owner not be set.
        TierFull, StorageError: the destination cannot take it.
        Conflict: another process still copies into this staging directory.
        Interrupted: `control` asked to stop; the next call goes on.
    """
    options = options or CopyOptions()
    with translated(str(staging)):
        for name in ("tree", "parts", "dropped"):
            (staging / name).mkdir(mode=0o700, exist_ok=True)
    with _locked(staging), _opened(staging, source_fd, options.threads) as places:
        board = Board(options.processes, options.rate.bytes_per_s)
        control = Following(control, options.rate, board.limit)
        with Crew(options.processes, board, lambda number: CopyWorker(number, places, board)) as crew:
            manifest, is_resumed = open_journal(staging / "manifest.db")
            try:
                _Copy(staging, places, crew, manifest, is_resumed, options.only, control).run()
                manifest.end_bulk()
            except BaseException:
                manifest.close()
                raise
    return manifest


class _Copy:
    """One attempt, in the parent."""

    def __init__(
        self,
        staging: Path,
        places: Places,
        crew: Crew,
        manifest: Manifest,
        is_resumed: bool,
        only: Wanted | None,
        control: Control,
    ) -> None:
        self.staging = staging
        self.places = places
        self.crew = crew
        self.manifest = manifest
        self.is_resumed = is_resumed
        self.only = only
        self.control = control
        self.attempt = int(manifest.meta.get("attempt", "0")) + 1
        self._parts: list[bytes] = []
        self._next_commit = time.monotonic() + _COMMIT_S
        self._parent: tuple[bytes, int] | None = None
        self._made: set[bytes] = set()

    def run(self) -> None:
        self.manifest.set_meta({"attempt": str(self.attempt), "complete": None})
        self.manifest.execute("DELETE FROM link_name")
        empty_dropped(self.places.dropped, self.control)
        try:
            self.crew.run(self._batches(), self._record, self.control)
            self.control.checkpoint("copy: hard links")
            if self.only is None:  # the other names of a chosen file need not be chosen
                check_groups(self.manifest)
            self.crew.run(self._groups(), self._record, self.control)
        finally:
            self._commit()
            self._leave()
        self.control.checkpoint("copy: directories")
        self.manifest.execute("DELETE FROM entry WHERE attempt < ?", (self.attempt,))
        self.manifest.execute("DELETE FROM chunks WHERE path NOT IN (SELECT path FROM entry)")
        self.manifest.execute("DELETE FROM link_name")
        if self.is_resumed:
            sweep_strangers(self.places.tree, self.places.dropped, self.manifest, self.control)
        finish_directories(self.places.tree, self.manifest, self.control, is_new=not self.is_resumed)
        self.control.checkpoint("copy: sync")
        copied = self.crew.board.totals()[2]
        self.manifest.set_meta({"complete": "1", "copied_bytes": str(copied)})
        with translated(str(self.staging)):
            for name in os.listdir(self.places.parts):
                os.unlink(name, dir_fd=self.places.parts)
            syncfs(self.places.tree)

    # -- walking -----------------------------------------------------------------------------------------

    def _batches(self) -> Iterator[Job]:
        for names in scan(self.places.source):
            entries = [entry for entry in names.entries if entry[2] != "d"]
            if self.only is not None:
                prefix = names.path + b"/" if names.path else b""
                entries = [entry for entry in entries if self.only(prefix + entry[1])]
                if entries or not names.path:
                    self._directories_to(names.path)
            elif names.is_first:
                self._directory(names)
            for at in range(0, len(entries), _BATCH):
                part = entries[at : at + _BATCH]
                yield ("files", names.path, names.stat.st_ino, part, self._known(names.path, [e[1] for e in part]))

    def _known(self, path: bytes, names: list[bytes]) -> dict[bytes, Stamp]:
        """What an earlier attempt recorded of these entries."""
        if not self.is_resumed:
            return {}
        prefix = path + b"/" if path else b""
        found = self.manifest.find_all([prefix + name for name in names])
        return {key[len(prefix) :]: _known_stamp(entry) for key, entry in found.items()}

    def _directory(self, names: Names) -> None:
        """Make the directory in the copy, private for now, and record what it will be."""
        st = names.stat
        with translated(show(names.path)):
            xattrs = read_xattrs(names.fd)
        if names.path:
            try:
                self._make(names.path)
            except OSError as error:
                raise write_refused(error, show(names.path)) from error
        self.manifest.add([
            Entry(
                path=names.path, type="d", size=0, mode=st.st_mode & 0o7777, uid=st.st_uid, gid=st.st_gid,
                mtime_ns=st.st_mtime_ns, atime_ns=st.st_atime_ns, xattrs=xattrs,
                source_inode=st.st_ino, source_ctime_ns=st.st_ctime_ns, attempt=self.attempt,
            ),
        ])  # fmt: skip

    def _directories_to(self, path: bytes) -> None:
        """Make a directory of which something is wanted, and those above it, where that was not done yet."""
        parts = path.split(b"/") if path else []
        for at in (b"/".join(parts[:depth]) for depth in range(len(parts) + 1)):
            if at in self._made:
                continue
            self._made.add(at)
            with translated(show(at)):
                fd = open_directory(self.places.source, at)
            try:
                self._directory(Names(at, fd, os.fstat(fd), [], True))
            finally:
                os.close(fd)

    def _make(self, path: bytes) -> None:
        above, _, name = path.rpartition(b"/")
        if self._parent is None or self._parent[0] != above:
            self._leave()
            self._parent = (above, open_directory(self.places.tree, above))
        parent = self._parent[1]
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
            return
        except FileExistsError:
            pass
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except NotADirectoryError:
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o700, dir_fd=parent)
            return
        except OSError:
            os.chmod(name, 0o700, dir_fd=parent)
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            make_private(fd)
        finally:
            os.close(fd)

    def _leave(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    # -- recording ---------------------------------------------------------------------------------------

    def _record(self, answer: Answer) -> None:
        self.manifest.add([(*row, self.attempt) for row in answer["rows"]])
        if answer["same"]:
            attempt = self.attempt
            rows = [(attempt, path) for path in answer["same"]]
            self.manifest.execute_many("UPDATE entry SET attempt = ? WHERE path = ?", rows)
        if answer["links"]:
            self.manifest.execute_many("INSERT OR REPLACE INTO link_name VALUES (?, ?, ?)", answer["links"])
        for path, digests, part in answer["chunks"]:
            self.manifest.add_chunks(path, digests)
            self._parts.append(part)
        for job in answer["large"]:
            self.crew.add(job)
        if time.monotonic() > self._next_commit:
            self._commit()

    def _commit(self) -> None:
        """Commit; only then are the records of finished large files not needed any more."""
        self.manifest.commit()
        self._next_commit = time.monotonic() + _COMMIT_S
        for part in self._parts:
            with suppress(FileNotFoundError):
                os.unlink(part, dir_fd=self.places.parts)
        self._parts.clear()

    # -- hard links --------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[Job]:
        for paths, count in groups(self.manifest):
            yield ("group", paths, count, self._known_group(paths))

    def _known_group(self, paths: list[bytes]) -> dict[bytes, Stamp]:
        """What is recorded of a group, or nothing unless all of it is recorded under the same first name."""
        if not self.is_resumed:
            return {}
        known: dict[bytes, Stamp] = {}
        for path in paths:
            entry = self.manifest.find(path)
            if entry is None or entry.link_group != paths[0]:
                return {}
            known[path] = _known_stamp(entry)
        return known

    # -- finishing ---------------------------------------------------------------------------------------


def _known_stamp(entry: Entry) -> Stamp:
    return (entry.type, entry.source_inode or 0, entry.size, entry.mtime_ns, entry.source_ctime_ns or 0)


def open_journal(path: Path) -> tuple[Manifest, bool]:
    """The manifest of an earlier attempt, or a new one; and whether there was an attempt."""
    is_resumed = path.exists()
    manifest = None
    try:
        manifest = Manifest.open(path)
        manifest.begin_bulk()
    except (Corrupt, NotFound):
        if manifest is not None:
            manifest.close()
        delete_manifest(path)
        manifest = Manifest.create(path)
        manifest.begin_bulk()
    return manifest, is_resumed


@contextmanager
def _locked(staging: Path) -> Iterator[None]:
    """Hold the staging directory. The crew inherits the lock, so it lasts until the last of them has ended."""
    fd = open_root(os.fsencode(staging))
    try:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise Conflict(f"another process still copies into {staging}") from error
                time.sleep(0.05)
        yield
    finally:
        os.close(fd)


@contextmanager
def _opened(staging: Path, source_fd: int, threads: int) -> Iterator[Places]:
    """Open the working directories; the tree is private and inherits nothing until it is finished."""
    fds: list[int] = []
    try:
        with translated(str(staging)):
            (staging / "tree").chmod(0o700)
            for name in ("tree", "parts", "dropped"):
                fds.append(os.open(staging / name, _DIRECTORY))
                make_private(fds[-1])
        yield Places(source=source_fd, tree=fds[0], parts=fds[1], dropped=fds[2], threads=threads)
    except OSError as error:
        raise translate(error, str(staging)) from error
    finally:
        for fd in fds:
            os.close(fd)

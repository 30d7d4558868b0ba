"""Read a copy back from the device and compare it with its manifest, entry by entry and byte by byte.

What was written sits in the page cache, where it would be found equal whatever the disk did to it: so everything
is synced first, its pages are dropped, and then it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, cast

from tierd.errors import Corrupt
from tierd.fs.linux import syncfs
from tierd.fs.walk import scan, show, translated
from tierd.storage.control import Control, Following, Rate
from tierd.storage.manifest import CHUNK, Entry, Manifest
from tierd.storage.posix.compare import CompareWorker
from tierd.storage.posix.crew import Answer, Crew, Job
from tierd.storage.posix.limits import Board

VerifyMode = Literal["read", "size"]
"""`read` compares everything; `size` everything but the bytes."""

_BATCH = 128
_PENDING = 4096
_COMMIT_ENTRIES = 50_000


def verify_copy(
    tree_fd: int,
    manifest: Manifest,
    *,
    mode: str = "read",
    processes: int = 2,
    threads: int = 3,
    rate: Rate | None = None,
    control: Control,
) -> None:
    """Make the copy below `tree_fd` durable and compare it with its manifest; records the copy's stamps.

    Forks, as `copy_tree`. Does not count progress: the bytes were counted when they were copied. What it reads back is
    bound by `rate`.

    Raises:
        Corrupt: something differs; the message names the first entry (and chunk). All that differ are taken out of
            the manifest, so that the next `copy_tree` on this staging directory copies them again.
        Interrupted: `control` asked to stop.
    """
    if manifest.meta.get("complete") is None:
        raise Corrupt("the copy is not finished", hint="Copy it again: what is there is used.")
    control.checkpoint("verify: sync")
    with translated("the copy"):
        syncfs(tree_fd)
    board = Board(processes, None)
    control = Following(control, rate or Rate(), board.limit)
    check = _Check(manifest, control)
    with Crew(processes, board, lambda number: CompareWorker(tree_fd, mode == "read", threads, board)) as crew:
        manifest.begin_bulk()
        is_finished = False
        try:
            manifest.execute("UPDATE entry SET copy_inode = NULL, copy_ctime_ns = NULL WHERE path = x''")
            control.checkpoint("verify")
            crew.run(check.jobs(), check.take, control)
            check.finish(tree_fd)
            is_finished = True
        finally:
            check.close(is_finished)
            manifest.end_bulk()
    check.judge()


class _Check:
    """What the parent knows while a copy is compared."""

    def __init__(self, manifest: Manifest, control: Control) -> None:
        self._manifest = manifest
        self._control = control
        self._bad: list[tuple[bool, bytes, str]] = []
        """(is a directory, path, what differs)"""
        self._extra: bytes | None = None
        self._root: tuple[int, int, bytes] | None = None
        self._uncommitted = 0

    def jobs(self) -> Iterator[Job]:
        """Batches of entries of one directory: path order mixes directories with what lies in them."""
        waiting: dict[bytes, list[Entry]] = {}
        pending = 0
        for entry in self._manifest.entries():
            if entry.type == "f" and entry.size > CHUNK:
                digests = self._manifest.chunks(entry.link_group or entry.path)
                yield ("large", self._expected(entry), b"".join(digests))
                continue
            directory = entry.path.rpartition(b"/")[0]
            batch = waiting.setdefault(directory, [])
            batch.append(entry)
            pending += 1
            if len(batch) >= _BATCH:
                pending -= len(batch)
                yield self._job(directory, waiting.pop(directory))
            elif pending > _PENDING:
                for path, entries in waiting.items():
                    yield self._job(path, entries)
                waiting, pending = {}, 0
        for path, entries in waiting.items():
            yield self._job(path, entries)

    def _job(self, directory: bytes, entries: list[Entry]) -> Job:
        return ("entries", directory, [self._expected(entry) for entry in entries])

    def _expected(self, entry: Entry) -> tuple[object, ...]:
        """What the worker compares: the entry up to its digest, and how many names it must have."""
        names = 1
        if entry.link_group is not None:
            query = "SELECT count(*) FROM entry WHERE link_group = ?"
            names = cast(int, self._manifest.execute(query, (entry.link_group,))[0][0])
        return (*entry[:13], names)

    def take(self, answer: Answer) -> None:
        stamps, bad = answer
        for stamp in stamps:
            if stamp[2] == b"":  # kept back: a root with a stamp says that the whole copy was found equal
                self._root = stamp
        stamps = [stamp for stamp in stamps if stamp[2] != b""]
        self._manifest.execute_many("UPDATE entry SET copy_inode = ?, copy_ctime_ns = ? WHERE path = ?", stamps)
        self._bad += bad
        self._uncommitted += len(stamps)
        if self._uncommitted > _COMMIT_ENTRIES:
            self._manifest.commit()
            self._uncommitted = 0

    def finish(self, tree_fd: int) -> None:
        """What can only be seen of the whole: link groups, and entries that should not be there."""
        split = self._manifest.execute(
            "SELECT link_group FROM entry WHERE link_group IS NOT NULL"
            " GROUP BY link_group HAVING count(DISTINCT copy_inode) <> 1"
        )
        self._bad += [(False, cast(bytes, path), "its names are not one file") for (path,) in split]
        found = 1
        for names in scan(tree_fd):
            self._control.checkpoint()
            found += len(names.entries)
        if found > self._manifest.totals().entries:
            self._extra = self._find_extra(tree_fd)

    def _find_extra(self, tree_fd: int) -> bytes | None:
        for names in scan(tree_fd):
            prefix = names.path + b"/" if names.path else b""
            for at in range(0, len(names.entries), _BATCH):
                paths = [prefix + name for _, name, _ in names.entries[at : at + _BATCH]]
                known = self._manifest.find_all(paths)
                for path in paths:
                    if path not in known:
                        return path
        return None

    def close(self, is_finished: bool) -> None:
        """Stamp the root if all is well; else take what differs out, with all names of a hard-linked file."""
        if is_finished and self._root is not None and not self._bad and self._extra is None:
            update = "UPDATE entry SET copy_inode = ?, copy_ctime_ns = ? WHERE path = ?"
            self._manifest.execute(update, self._root)
            return
        for _, path, _ in self._bad:
            self._manifest.execute(
                "DELETE FROM entry WHERE link_group = (SELECT link_group FROM entry WHERE path = ?)", (path,)
            )
        self._manifest.remove(path for _, path, _ in self._bad)

    def judge(self) -> None:
        if self._bad and not (self._extra and all(is_directory for is_directory, _, _ in self._bad)):
            _, path, what = min(self._bad)  # a directory's own time often differs only because of what lies in it
            more = f" (and {len(self._bad) - 1} more entries)" if len(self._bad) > 1 else ""
            raise Corrupt(
                f"the copy of {show(path)} differs from what was read: {what}{more}",
                hint="The next attempt copies it again; if it happens often, check that disk.",
            )
        if self._extra is not None:
            raise Corrupt(f"{show(self._extra)} is in the copy, but not in the source")

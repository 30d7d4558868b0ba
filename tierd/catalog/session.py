"""Transactions: who may write when, and who is told afterwards. The base of every part of the catalog."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, text

from tierd.catalog.engine import Opened, open_database, translated
from tierd.errors import CatalogError

_NEWEST = text("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'event'), 0)")
_ROWS_WRITTEN = text("SELECT total_changes()")
_T = TypeVar("_T")


class Session:
    """An open catalog: any number of readers, one writer at a time, in any thread."""

    def __init__(self, opened: Opened) -> None:
        self._db = opened
        self._write_lock = threading.Lock()
        self._news = threading.Condition()
        self._is_closed = False
        self._rows = 0
        self._changing, self._changed = 0, 0
        """Transactions that change something: counted before they are committed, and again afterwards."""
        self._answers: dict[Hashable, tuple[int, Any]] = {}
        """By question: how many changes had been made when it was answered, and the answer."""
        self._shared: Connection | None = None
        self._sharer: int | None = None
        with self._reading() as conn:
            self._newest_event: int = conn.scalar(_NEWEST)

    @classmethod
    def open(cls, path: Path, *, wait_s: float = 5.0) -> Self:
        """Open the catalog, creating or upgrading it as needed, and keep others out until it is closed.

        Args:
            wait_s: how long to wait for another daemon, or for workers it left behind, to let go of it.

        Raises:
            CatalogLocked: another daemon or program owns it.
            CatalogTooNew: a newer tierd wrote it.
            CatalogCorrupt: it is damaged; nothing was changed.
            CatalogError: it cannot be opened or written.
        """
        return cls(open_database(path, wait_s=wait_s))

    @property
    def path(self) -> Path:
        """The database file."""
        return self._db.path

    @property
    def lock_fd(self) -> int:
        """The locked descriptor; while a worker inherits it, no other daemon can open the catalog."""
        return self._db.lock_fd

    def close(self) -> None:
        """Wait for the write under way, end waiting readers, and let others open the catalog."""
        with self._write_lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._db.close()
        with self._news:
            self._news.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """One consistent read: everything inside sees the same moment."""
        self._check_open()
        with translated(self.path), self._db.reader.connect() as conn, conn.begin():
            yield conn

    def _known(
        self,
        question: Hashable,
        read: Callable[[Connection], _T],
        *,
        fits: Callable[[_T], bool] = lambda _: True,
    ) -> _T:
        """What `read` finds; not read again for as long as nothing is written, so that a daemon at rest asks nothing.

        Args:
            question: names it: the same question is always read in the same way.
            fits: whether an answer that nothing written has outdated is of use now.
        """
        self._check_open()
        changes, found = self._answers.get(question, (-1, None))
        if changes == self._changing and fits(found):
            return found  # type: ignore[no-any-return]  # what was put in below
        # Taken before the read begins: of a change that is under way by then or made meanwhile it is not known whether
        # this read sees it. The answer is used again only where there was none.
        changes = self._changed
        with self._reading() as conn:
            answer = read(conn)
        self._answers[question] = changes, answer
        return answer

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let the writes of this thread share one transaction, and so one wait for the disk.

        Each write is still all or nothing, but none is kept before the block ends, and reads do not see them until
        then. For many small writes that may be lost together; nobody else can write meanwhile, so keep it short.
        """
        with self._writing() as conn:
            self._shared, self._sharer = conn, threading.get_ident()
            try:
                yield
            finally:
                self._shared, self._sharer = None, None

    @contextmanager
    def _writing(self, *, outdates: bool = True) -> Iterator[Connection]:
        """One transaction: all of it or nothing is kept; those who wait for events are told after the commit.

        Args:
            outdates: False for a change that no answer that is kept (`_known`) depends on.
        """
        shared = self._shared
        if shared is not None and self._sharer == threading.get_ident():
            with translated(self.path), shared.begin_nested():
                yield shared
            return
        with self._write_lock:
            self._check_open()
            with translated(self.path), self._db.writer.begin() as conn:
                yield conn
                newest: int = conn.scalar(_NEWEST)
                written: int = conn.scalar(_ROWS_WRITTEN)
                if written != self._rows and outdates:
                    self._changing += 1
                self._rows = written
            self._changed = self._changing
        with self._news:
            if newest > self._newest_event:
                self._newest_event = newest
                self._news.notify_all()

    def _check_open(self) -> None:
        if self._is_closed:
            raise CatalogError("the catalog is closed", hint="The daemon is stopping; try again when it runs.")

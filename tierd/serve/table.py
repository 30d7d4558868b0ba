"""The table of snapshots on the page: filtered, sorted and cut into pages on the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

from tierd.model.placement import Residency
from tierd.model.plan import SnapshotView, View

ROWS = 50
_KEYS: Mapping[str, Callable[[SnapshotView], Any]] = MappingProxyType(
    {
        "used": lambda s: -s.snapshot.accessed_at.timestamp(),
        "name": lambda s: (s.ref.dataset, s.ref.name or ""),
        "size": lambda s: -s.snapshot.size_bytes,
        "files": lambda s: -s.snapshot.files,
        "held": lambda s: -len(s.holds),
    }
)


@dataclass(frozen=True, kw_only=True)
class Query:
    """What somebody wants to see; anything that cannot be understood is what it would be if it were left out."""

    text: str = ""
    residency: str = ""
    sort: str = "used"
    is_reversed: bool = False
    page: int = 1

    @classmethod
    def of(cls, asked: Mapping[str, str]) -> Query:
        page = asked.get("page", "")
        residency, sort = asked.get("residency", ""), asked.get("sort", "")
        return cls(
            text=asked.get("q", "").strip()[:200],
            residency=residency if residency in set(Residency) else "",
            sort=sort if sort in _KEYS else "used",
            is_reversed=asked.get("order") == "reverse",
            page=int(page) if page.isascii() and page.isdecimal() and 0 < len(page) < 7 else 1,
        )

    def address(self, **changes: object) -> str:
        """The query string of this, with changes."""
        values = {"q": self.text, "residency": self.residency, "sort": self.sort, "page": self.page} | changes
        is_reversed = bool(values.pop("is_reversed", self.is_reversed))
        kept = {
            key: value for key, value in values.items() if value not in ("", 1) and (key, value) != ("sort", "used")
        }
        return urlencode(kept | ({"order": "reverse"} if is_reversed else {}), errors="replace")

    def by(self, sort: str) -> str:
        """The query string of a click on a column: sorts by it, or turns the order round."""
        return self.address(sort=sort, page=1, is_reversed=self.sort == sort and not self.is_reversed)

    def order(self, sort: str) -> str:
        """How the table is sorted by a column, as `aria-sort` says it."""
        if self.sort != sort:
            return "none"
        return "ascending" if (sort == "name") is not self.is_reversed else "descending"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A page of the table."""

    rows: list[SnapshotView]
    matching: int
    total: int
    page: int
    pages: int


def matching(view: View, text: str) -> list[SnapshotView]:
    """The snapshots, also what is left of deleted ones, with a text in their name or in that of a holder."""
    known, text = [*view.snapshots, *view.orphans], text.casefold()
    return [
        s
        for s in known
        if not text or text in str(s.ref).casefold() or any(text in h.holder.casefold() for h in s.holds)
    ]


def find(view: View, query: Query) -> Found:
    """The snapshots of one page."""
    total = len(view.snapshots) + len(view.orphans)
    wanted = [s for s in matching(view, query.text) if not query.residency or view.residency(s) == query.residency]
    wanted.sort(key=_KEYS[query.sort], reverse=query.is_reversed)
    pages = max(1, -(-len(wanted) // ROWS))
    page = min(query.page, pages)
    rows = wanted[(page - 1) * ROWS : page * ROWS]
    return Found(rows=rows, matching=len(wanted), total=total, page=page, pages=pages)

"""The events that wait for one webhook: only their ids, so that a receiver may be away for a day."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from itertools import takewhile

from tierd.catalog import Catalog
from tierd.model.event import Event
from tierd.model.webhook import Webhook

_READ = 500


class Backlog:
    """Filled from the history in its order. Used by one thread; `pending` and `oldest_at` by any."""

    def __init__(self, webhook: Webhook, catalog: Catalog, after: int) -> None:
        self._webhook, self._catalog = webhook, catalog
        self._waiting: deque[tuple[int, datetime]] = deque()
        self.read_to = after
        """The last event that was looked at."""

    def read(self) -> None:
        """Look at what happened since.

        Raises:
            CatalogError: it cannot be read now.
        """
        while events := self._catalog.events(after=self.read_to, limit=_READ):
            self._waiting.extend((e.id, e.at) for e in events if self._webhook.wants(e))
            self.read_to = events[-1].id

    @property
    def pending(self) -> int:
        return len(self._waiting)

    @property
    def oldest_at(self) -> datetime | None:
        try:
            return self._waiting[0][1]
        except IndexError:
            return None

    def last_of_first(self, number: int) -> int | None:
        """The id of the last of the first so many that wait; None when nothing does."""
        return self._waiting[min(number, len(self._waiting)) - 1][0] if self._waiting else None

    def events(self, last: int) -> list[Event]:
        """What waits, up to this event.

        Raises:
            CatalogError: it cannot be read now.
        """
        ids = [number for number, _ in takewhile(lambda each: each[0] <= last, self._waiting)]
        found: list[Event] = []
        after = ids[0] - 1 if ids else last
        while after < last and (events := self._catalog.events(after=after, limit=_READ)):
            wanted = set(ids)
            found += [e for e in events if e.id in wanted]
            after = events[-1].id
        return found

    def drop(self, last: int) -> int:
        """Forget what waits up to this event; how many there were."""
        dropped = 0
        while self._waiting and self._waiting[0][0] <= last:
            self._waiting.popleft()
            dropped += 1
        return dropped

    def last_before(self, moment: datetime) -> int | None:
        """The id of the newest of those at the head that are older; None when the first is not."""
        older = [number for number, _ in takewhile(lambda each: each[1] < moment, self._waiting)]
        return older[-1] if older else None

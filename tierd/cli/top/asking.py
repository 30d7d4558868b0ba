"""What the daemon is asked for: one request for everything at a glance, and one for the list that is shown."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tierd.cli.top.state import Action, Name, Seen, Wanted
from tierd.errors import DaemonUnreachable, TierdError

if TYPE_CHECKING:
    from tierd.client import Tierd

_LEASE = "1h"
_ENDED, _USERS = 50, 5
_USERS_EVERY = timedelta(seconds=30)


class Asking:
    """Asks one daemon.

    Args:
        since: how far the rankings of uses look back; ranked: how many lines they have at most.
    """

    def __init__(self, daemon: Tierd, *, since: timedelta, ranked: int) -> None:
        self._daemon, self._since, self._ranked = daemon, since, ranked
        self._session = uuid.uuid4()
        self._users_at: datetime | None = None

    def first(self, wanted: Wanted) -> Seen:
        """What there is to see at the beginning.

        Raises:
            TierdError: it cannot be asked for.
        """
        return self._listed(self._glance(None), wanted)

    def again(self, before: Seen, wanted: Wanted, *, only_list: bool) -> Seen:
        """What there is to see now; where the daemon cannot be asked, what there was, and why. Never raises for that.

        Args:
            only_list: ask for the list of the view alone: somebody has turned a page.
        """
        try:
            return self._listed(replace(before, trouble=None) if only_list else self._glance(before), wanted)
        except DaemonUnreachable:
            return replace(before, trouble="the daemon is not reachable, trying again")
        except TierdError as e:
            return replace(before, trouble=e.message)

    def carry_out(self, action: Action) -> str:
        """Do what was confirmed; says what came of it, also where that is a refusal."""
        try:
            if action.verb == "cancel":
                found = self._daemon.cancel(int(action.target))
                return f"transfer {found.id} {f'is {found.state}' if found.is_finished else 'stops at a safe point'}"
            # The same key for the same snapshot: w twice is one lease, which lasts longer.
            key = uuid.uuid5(self._session, action.target.encode("utf-8", "replace").hex()).hex
            answer = self._daemon.ask_warm(action.target, lease=_LEASE, request_key=key, note="from tierd top")
            return f"{action.target}: {answer.reason}"
        except TierdError as e:
            return f"{e.message}. {e.hint}" if e.hint else e.message

    def _glance(self, before: Seen | None) -> Seen:
        overview = self._daemon.overview()
        now, seen = datetime.now(UTC), before or Seen(overview=overview)
        ended = (t for t in seen.transfers if t.is_finished)
        seen = replace(seen, overview=overview, transfers=(*overview.transfers, *ended), trouble=None)
        if self._users_at is not None and now - self._users_at < _USERS_EVERY:
            return seen
        users = tuple(self._daemon.top("user", since=now - self._since, limit=_USERS))
        self._users_at = now
        return replace(seen, users=users)

    def _listed(self, seen: Seen, wanted: Wanted) -> Seen:
        match wanted.view:
            case Name.SNAPSHOTS:
                rows = self._daemon.rows(
                    wanted.text,
                    sort=wanted.sort,
                    is_reversed=wanted.is_reversed,
                    offset=wanted.offset,
                    limit=wanted.limit,
                )
                return replace(seen, rows=rows, rows_for=wanted)
            case Name.TRANSFERS:
                live = {t.id: t for t in seen.overview.transfers}
                ended = (t for t in self._daemon.transfers(limit=_ENDED) if t.is_finished and t.id not in live)
                return replace(seen, transfers=(*live.values(), *ended))
            case Name.USES:
                began = datetime.now(UTC) - self._since
                ranked = self._daemon.top(wanted.by, since=began, limit=self._ranked)
                return replace(seen, ranked=tuple(ranked), ranked_by=wanted.by)
            case Name.OVERVIEW:
                return seen

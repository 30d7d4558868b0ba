"""The daemon's REST interface, call by call."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote

from tierd.client import shapes
from tierd.client.connection import DEFAULT_URL, TOKEN_VARIABLE, URL_VARIABLE, Connection, Params
from tierd.client.waiting import OnProgress, Patience, Waiting, await_end
from tierd.errors import DaemonUnreachable, InvalidRequest
from tierd.model.dataset import SnapshotRef
from tierd.model.units import parse_duration

Ref = str | SnapshotRef
"""A snapshot: `"imagenet/v3"`, or `"laion"` where the dataset itself is the snapshot."""
Duration = str | int | float | timedelta
"""`"8h"`, `"1h30m"`, seconds, or a timedelta."""

_PAGE = 200
_STREAM_SILENCE_S = 90.0
_AGAIN_S = 0.5
_WEBHOOK_S = 120.0
"""A receiver may be given a minute, and two are asked at a time."""


class Rest:
    """One method per call. Thread-safe; keeps no connection open, so there is nothing to close.

    Args:
        url: `unix:///path/of.sock` or `http(s)://host:port`; by default what TIERD_URL says, else the socket of the
            daemon of this machine.
        token: for a daemon that is reached over TCP; by default what TIERD_TOKEN says.
        patience: how long a daemon may be away (a restart) while something is waited for.
        connection: how requests are sent, in place of `url` and `token`.

    Every method raises DaemonUnreachable when nobody answers, Forbidden and Unauthorized when the caller may not, and
    otherwise the class of `tierd.errors` that the daemon reports.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        patience: Duration = timedelta(minutes=5),
        connection: Connection | None = None,
    ) -> None:
        where = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
        self.connection = connection or Connection(where, token or os.environ.get(TOKEN_VARIABLE) or None)
        self.patience = span(patience)

    # ------------------------------------------------------------------ looking

    def status(self) -> shapes.Status:
        """The daemon, its tiers and what is going on, at a glance."""
        return shapes.decode(shapes.Status, self.connection.ask("GET", "/v1/status"))

    def overview(self) -> shapes.Overview:
        """Tiers, what moves, what comes next and why, who holds what, what happened last, in one answer."""
        return shapes.decode(shapes.Overview, self.connection.ask("GET", "/v1/overview"))

    def rows(
        self, text: str = "", *, sort: str = "name", is_reversed: bool = False, offset: int = 0, limit: int = 50
    ) -> shapes.Rows:
        """Snapshots to page through, with their value. `sort`: name, size, value, accessed or held.

        Args:
            text: in the name of the snapshot, or of somebody who holds it.
            offset: of the first one; past the end the last ones are answered.
        """
        order = "reverse" if is_reversed else "usual"
        params: Params = {"text": text, "sort": sort, "order": order, "offset": offset, "limit": limit}
        return shapes.decode(shapes.Rows, self.connection.ask("GET", "/v1/rows", params=params))

    def tiers(self) -> list[shapes.Tier]:
        """All tiers, fastest first."""
        return shapes.decode_items(shapes.Tier, self.connection.ask("GET", "/v1/tiers"))

    def datasets(self) -> list[shapes.Dataset]:
        """All datasets as configured."""
        return shapes.decode_items(shapes.Dataset, self.connection.ask("GET", "/v1/datasets"))

    def dataset(self, name: str) -> shapes.Dataset:
        """One dataset (NotFound)."""
        return shapes.decode(shapes.Dataset, self.connection.ask("GET", f"/v1/datasets/{quote(name, safe='')}"))

    def set_phase(self, dataset: str, phase: str | None) -> shapes.Dataset:
        """Move a dataset to another phase of its life: collect, build, train, archive, deploy; None: as configured."""
        path = f"/v1/datasets/{quote(dataset, safe='')}/phase"
        return shapes.decode(shapes.Dataset, self.connection.ask("PUT", path, body={"phase": phase}))

    def snapshots(
        self, dataset: str | None = None, *, residency: str | None = None, sort: str = "name"
    ) -> Iterator[shapes.Snapshot]:
        """Snapshots, asked for page by page. `sort`: name, size or accessed."""
        cursor: str | None = None
        while True:
            params = {"dataset": dataset, "residency": residency, "sort": sort, "limit": _PAGE, "cursor": cursor}
            page = self.connection.ask("GET", "/v1/snapshots", params=params)
            yield from shapes.decode_items(shapes.Snapshot, page)
            found = page.get("next_cursor") if isinstance(page, dict) else None
            cursor = found if isinstance(found, str) else None
            if cursor is None:
                return

    def snapshot(self, ref: Ref) -> shapes.Snapshot:
        """One snapshot (NotFound)."""
        return shapes.decode(shapes.Snapshot, self.connection.ask("GET", _path(ref)))

    def explain(self, ref: Ref) -> shapes.Explanation:
        """Why a snapshot is where it is, what holds it, and what would move it."""
        return shapes.decode(shapes.Explanation, self.connection.ask("GET", _path(ref, "explain")))

    def plan(self) -> shapes.Plan:
        """What the daemon would do now, and why."""
        return shapes.decode(shapes.Plan, self.connection.ask("GET", "/v1/plan"))

    # ------------------------------------------------------------------ use

    def report_access(
        self,
        ref: Ref,
        *,
        write: bool = False,
        at: datetime | None = None,
        count: int = 1,
        program: str | None = None,
        uid: int | None = None,
        job: str | None = None,
    ) -> None:
        """Tell of a use that the daemon cannot see (an NFS client, FUSE, a remote reader).

        Args:
            at: when, with its time zone; now, if it is left out.
            program, uid, job: who it was, as far as that shall be known.

        Raises:
            NotFound: no such snapshot.
            InvalidRequest: the time lies in the future.
        """
        who: dict[str, shapes.Json] = {"program": program, "uid": uid, "job": job}
        said: dict[str, shapes.Json] = {key: value for key, value in who.items() if value is not None}
        said |= {"ref": str(ref), "kind": "write" if write else "read", "count": count}
        if at is not None:
            said["at"] = at.isoformat()
        self.connection.ask("POST", "/v1/access", body={"accesses": [said]})

    def accesses(self, ref: Ref, *, before: int | None = None, limit: int = 100) -> list[shapes.Episode]:
        """Who used a snapshot, and when; the newest first. `before`: only those with a smaller id."""
        params = {"before": before, "limit": limit}
        return shapes.decode_items(shapes.Episode, self.connection.ask("GET", _path(ref, "accesses"), params=params))

    def top(self, by: str = "snapshot", *, since: datetime | None = None, limit: int = 100) -> list[shapes.Ranked]:
        """Who or what was most active, by "job", "user", "program", "snapshot" or "dataset"; of the last day."""
        params = {"by": by, "since": None if since is None else since.isoformat(), "limit": limit}
        return shapes.decode_items(shapes.Ranked, self.connection.ask("GET", "/v1/accesses/top", params=params))

    def spans(self, dataset: str, *, since: datetime | None = None, by: str = "day") -> list[shapes.Span]:
        """How often each snapshot of a dataset was used, per "day" or "hour"."""
        path, found = f"/v1/datasets/{quote(dataset, safe='')}/accesses", list[shapes.Span]()
        cursor: str | None = None
        while True:
            params = {"by": by, "since": None if since is None else since.isoformat(), "cursor": cursor}
            page = self.connection.ask("GET", path, params=params)
            found += shapes.decode_items(shapes.Span, page)
            rest = page.get("next_cursor") if isinstance(page, dict) else None
            cursor = rest if isinstance(rest, str) else None
            if cursor is None:
                return found

    def history(self, dataset: str | None = None, *, since: datetime | None = None, form: str = "csv") -> Iterator[str]:
        """All times of use, the oldest first, line by line: "csv" (with a head) or "ndjson"."""
        params = {"dataset": dataset, "since": None if since is None else since.isoformat(), "form": form}
        with self.connection.lines(
            "/v1/accesses/export", headers={}, silence_s=_STREAM_SILENCE_S, params=params
        ) as lines:
            yield from lines

    # ------------------------------------------------------------------ warm

    def ask_warm(
        self,
        ref: Ref,
        *,
        lease: Duration,
        holder: str | None = None,
        request_key: str | None = None,
        note: str | None = None,
        restore: bool = False,
        first: Sequence[str] = (),
        only: Sequence[str] = (),
        by: datetime | None = None,
        urgency: int = 0,
        tie: Tie | None = None,
    ) -> shapes.WarmAnswer:
        """Hold a snapshot and have it brought to flash; does not wait. `Tierd.warm` is what jobs want.

        Args:
            request_key: a repetition with the same key renews the same lease, it makes no second one.
            restore: have an archived copy restored first, for the time and money that RestoreNeeded names.
            first: patterns of files that are brought from a bucket before the others.
            only: patterns of the files that are brought at all; the path of the answer is where they are.
            tie: what the lease ends with, besides its time.
            by: when it must be there; urgency: -5 to 5, among wishes without a time the larger comes first.

        Raises:
            Refused: flash cannot hold it, or no copy can be reached.
            TooLate: it cannot be there by then; nothing is begun.
            RestoreNeeded: its copy is archived, and `restore` is not set.
            NotFound: no such snapshot.
        """
        body = _said(holder=holder, request_key=request_key, note=note) | {"lease_s": _seconds(lease)}
        if restore:  # left out otherwise: an older daemon does not know it
            body["restore"] = True
        if first:
            body["first"] = list(first)
        if only:
            body["only"] = list(only)
        body |= _tied(tie)
        if by is not None:
            body["by"] = by.isoformat()
        if urgency:
            body["urgency"] = urgency
        return shapes.decode(shapes.WarmAnswer, self.connection.ask("POST", _path(ref, "warm"), body=body))

    def receipt(self, ref: Ref) -> shapes.Receipt:
        """Proof that a snapshot is wholly on flash (Conflict when it is not)."""
        return shapes.decode(shapes.Receipt, self.connection.ask("GET", _path(ref, "receipt")))

    # ------------------------------------------------------------------ moving

    def migrate(self, ref: Ref, *, release: bool = False) -> shapes.Transfer:
        """Have a verified cold copy made, and with `release` the flash copy removed afterwards."""
        body: shapes.Json = {"release": release}
        return shapes.decode(shapes.Transfer, self.connection.ask("POST", _path(ref, "migrate"), body=body))

    def release(self, ref: Ref) -> shapes.Transfer:
        """Have the flash copy removed once a verified cold one exists (Held, NotSettled)."""
        return shapes.decode(shapes.Transfer, self.connection.ask("POST", _path(ref, "release")))

    def transfers(self, *, live: bool = False, limit: int = 100, before: int | None = None) -> list[shapes.Transfer]:
        """Transfers, newest first. `before`: only those with a smaller id."""
        params = {"live": live or None, "limit": limit, "before": before}
        return shapes.decode_items(shapes.Transfer, self.connection.ask("GET", "/v1/transfers", params=params))

    def transfer(self, transfer_id: int, *, wait_s: float = 0.0) -> shapes.Transfer:
        """One transfer; `wait_s` (up to 60): answer only when it has ended or the time is up."""
        answer = self.connection.ask(
            "GET", f"/v1/transfers/{transfer_id}", params={"wait_s": wait_s or None}, wait_s=wait_s
        )
        return shapes.decode(shapes.Transfer, answer)

    def wait_for(
        self,
        transfer: shapes.Transfer,
        *,
        timeout: Duration | None = None,
        on_progress: OnProgress | None = None,
        poll_s: float = 1.0,
    ) -> shapes.Transfer:
        """Wait until a transfer is done, through failed attempts and restarts of the daemon.

        Raises:
            TimeoutError: it takes longer; it goes on nevertheless.
            TierdError: it failed (the class of its error), or was cancelled (Interrupted).
        """
        how = Waiting(
            timeout=None if timeout is None else span(timeout),
            patience=self.patience,
            on_progress=on_progress,
            poll_s=poll_s,
        )
        return await_end(self.transfer, transfer, how)

    def cancel(self, transfer_id: int) -> shapes.Transfer:
        """Ask a transfer to stop at the next safe point."""
        return shapes.decode(shapes.Transfer, self.connection.ask("POST", f"/v1/transfers/{transfer_id}/cancel"))

    def pause(self, transfer_id: int) -> shapes.Transfer:
        """Let a transfer rest."""
        return shapes.decode(shapes.Transfer, self.connection.ask("POST", f"/v1/transfers/{transfer_id}/pause"))

    def resume(self, transfer_id: int) -> shapes.Transfer:
        """Let a transfer go on."""
        return shapes.decode(shapes.Transfer, self.connection.ask("POST", f"/v1/transfers/{transfer_id}/resume"))

    def pause_all(self) -> bool:
        """Let all transfers rest, also those to come; True: they do."""
        return shapes.decode(shapes.Paused, self.connection.ask("POST", "/v1/pause")).is_paused

    def resume_all(self) -> bool:
        """Let transfers go on; False: none is kept from it."""
        return shapes.decode(shapes.Paused, self.connection.ask("POST", "/v1/resume")).is_paused

    # ------------------------------------------------------------------ holding

    def leases(self) -> list[shapes.Lease]:
        """All leases and pins, oldest first."""
        return shapes.decode_items(shapes.Lease, self.connection.ask("GET", "/v1/leases"))

    def grant_lease(
        self,
        ref: Ref,
        lease: Duration,
        *,
        holder: str | None = None,
        request_key: str | None = None,
        note: str | None = None,
        tie: Tie | None = None,
    ) -> shapes.Lease:
        """Hold a snapshot for a while, wherever it is; it is not brought to flash for that."""
        said = _said(ref=str(parse_ref(ref)), holder=holder, request_key=request_key, note=note)
        body = said | {"lease_s": _seconds(lease)} | _tied(tie)
        return shapes.decode(shapes.Lease, self.connection.ask("POST", "/v1/leases", body=body))

    def renew(self, lease_id: int, lease: Duration) -> shapes.Lease:
        """Let a lease end so much later than now (Conflict when it has ended)."""
        answer = self.connection.ask("PUT", f"/v1/leases/{lease_id}", body={"lease_s": _seconds(lease)})
        return shapes.decode(shapes.Lease, answer)

    def hand_over(
        self,
        lease_id: int,
        lease: Duration,
        *,
        holder: str | None = None,
        tie: Tie | None = None,
        generation: int | None = None,
    ) -> shapes.Lease:
        """Give a lease to another holder in one step (Conflict when it has ended, or somebody else changed it)."""
        said = _said(holder=holder) | {"lease_s": _seconds(lease)} | _tied(tie)
        if generation is not None:
            said["generation"] = generation
        return shapes.decode(shapes.Lease, self.connection.ask("POST", f"/v1/leases/{lease_id}/handover", body=said))

    def end_lease(self, lease_id: int) -> None:
        """End a lease now."""
        self.connection.ask("DELETE", f"/v1/leases/{lease_id}")

    def pin(self, ref: Ref, *, note: str | None = None) -> shapes.Lease:
        """Forbid every release of a snapshot until it is unpinned."""
        return shapes.decode(shapes.Lease, self.connection.ask("POST", _path(ref, "pin"), body=_said(note=note)))

    def unpin(self, ref: Ref) -> None:
        """Remove the pin; nothing happens where there is none."""
        self.connection.ask("DELETE", _path(ref, "pin"))

    # ------------------------------------------------------------------ announced use

    def announce(
        self,
        ref: Ref,
        at: datetime,
        *,
        lasts: Duration | None = None,
        until: datetime | None = None,
        holder: str | None = None,
        confidence: float = 1.0,
        note: str | None = None,
        request_key: str | None = None,
        source: str = "caller",
    ) -> shapes.Announcement:
        """Say that a snapshot will be read from `at` on; nothing is held or brought to flash for that.

        Args:
            ref: also `"DATASET/latest"`: the answer names which one that is now.
            lasts: how long, or `until` when, it will be read; an hour by default.
            holder: who will read it (`"slurm:991"`); the caller by default.
            confidence: how likely that is, up to 1.
            request_key: announcing again with the same key changes what was announced.
            source: "scheduler" for a batch system that speaks for a job in its queue.

        Raises:
            NotFound: no such snapshot.
            InvalidRequest: the time is over.
        """
        body = _said(ref=str(parse_ref(ref)), holder=holder, note=note, request_key=request_key, source=source)
        body |= {"at": _moment(at), "confidence": float(confidence)}
        if lasts is not None:
            body["for_s"] = span(lasts).total_seconds()
        if until is not None:
            body["until"] = _moment(until)
        return shapes.decode(shapes.Announcement, self.connection.ask("POST", "/v1/announcements", body=body))

    def announcements(self) -> list[shapes.Announcement]:
        """All announced uses that are not over, the next one first."""
        return shapes.decode_items(shapes.Announcement, self.connection.ask("GET", "/v1/announcements"))

    def withdraw(self, announcement_id: int) -> None:
        """Withdraw what was announced; nothing happens if it is over already."""
        self.connection.ask("DELETE", f"/v1/announcements/{announcement_id}")

    def schedules(self) -> list[shapes.Schedule]:
        """The schedules of the daemon's configuration, and what is next."""
        return shapes.decode_items(shapes.Schedule, self.connection.ask("GET", "/v1/schedules"))

    def advice(self) -> list[shapes.Advice]:
        """Regular uses that no schedule covers."""
        return shapes.decode_items(shapes.Advice, self.connection.ask("GET", "/v1/advice"))

    # ------------------------------------------------------------------ webhooks

    def webhooks(self) -> list[shapes.Webhook]:
        """The webhooks of the daemon's configuration, and how each is doing."""
        return shapes.decode_items(shapes.Webhook, self.connection.ask("GET", "/v1/webhooks"))

    def test_webhook(self, name: str) -> shapes.WebhookTest:
        """Let the daemon send a test event now; says what came back (NotFound)."""
        path = f"/v1/webhooks/{quote(name, safe='')}/test"
        return shapes.decode(shapes.WebhookTest, self.connection.ask("POST", path, wait_s=_WEBHOOK_S))

    # ------------------------------------------------------------------ events

    def events(self, *, after: int | None = None, limit: int = 100, ref: Ref | None = None) -> shapes.Events:
        """Events, oldest first: those after an id, or the newest."""
        params = {"after": after, "limit": limit, "ref": None if ref is None else str(parse_ref(ref))}
        return shapes.decode(shapes.Events, self.connection.ask("GET", "/v1/events", params=params))

    def follow(self, *, after: int | None = None) -> Iterator[shapes.Event]:
        """Events as they happen, without end, through restarts of the daemon. `after`: from there on, else from now."""
        last, patience = after, Patience(self.patience, None)
        while True:
            try:
                headers: Mapping[str, str] = {} if last is None else {"last-event-id": str(last)}
                with self.connection.lines("/v1/events/stream", headers=headers, silence_s=_STREAM_SILENCE_S) as lines:
                    patience.answered()
                    for event in _events(lines):
                        last = event.id
                        yield event
            except DaemonUnreachable as e:
                patience.failed(e)
            else:
                # The daemon ended the stream, because it stops: it will be back, or the next try says that it is not.
                time.sleep(_AGAIN_S)


def parse_ref(ref: Ref) -> SnapshotRef:
    """The reference that a text names (InvalidRequest)."""
    return ref if isinstance(ref, SnapshotRef) else SnapshotRef.parse(ref)


def span(duration: Duration) -> timedelta:
    """The duration that a text or a number of seconds means (InvalidRequest)."""
    return duration if isinstance(duration, timedelta) else parse_duration(duration)


@dataclass(frozen=True, kw_only=True)
class Tie:
    """What a lease ends with: a process as the daemon's machine numbers it, a Slurm job, or whoever calls."""

    pid: int | None = None
    job: str | None = None


CALLER = Tie()
"""The calling process: the daemon knows it from the Unix socket."""


def _tied(tie: Tie | None) -> dict[str, shapes.Json]:
    if tie is None:
        return {}
    if tie.pid is None and tie.job is None:
        return {"tie": "caller"}
    return {"pid": tie.pid} if tie.job is None else {"job": tie.job}


def _seconds(lease: Duration) -> float:
    seconds = span(lease).total_seconds()
    if seconds <= 0:
        raise InvalidRequest("a lease must be longer than nothing", hint='Write how long, like "8h".')
    return seconds


def _moment(at: datetime) -> str:
    """With its zone and its seconds, as the interface wants it; a time without a zone is local."""
    return at.astimezone().isoformat()


def _path(ref: Ref, verb: str = "") -> str:
    parsed = parse_ref(ref)
    path = f"/v1/snapshots/{quote(parsed.dataset, safe='')}/{quote(parsed.name, safe='')}"
    return f"{path}/{verb}" if verb else path


def _said(**values: str | None) -> dict[str, shapes.Json]:
    return {k: v for k, v in values.items() if v is not None}


def _events(lines: Iterator[str]) -> Iterator[shapes.Event]:
    """The events of a server-sent stream; comments (signs of life) and what is no event are passed over."""
    data: list[str] = []
    for line in lines:
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            with suppress(ValueError):
                yield shapes.decode(shapes.Event, json.loads("\n".join(data)))
            data = []

"""The thread of one webhook: waits for events, sends them in batches, tries again, and knows when to stop trying."""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tierd.catalog import Catalog
from tierd.config.webhook_values import read_secrets
from tierd.daemon.webhooks import payload
from tierd.daemon.webhooks.backlog import Backlog
from tierd.daemon.webhooks.cursors import Cursor, Cursors, Sending
from tierd.errors import CatalogError, ConfigError
from tierd.model.event import Detail, Event
from tierd.model.webhook import OWN_KINDS, Webhook, WebhookState, WebhookStatus, WebhookTest

if TYPE_CHECKING:
    from tierd.daemon.webhooks.post import Answer, Request

log = logging.getLogger(__name__)

_BATCH = 100
_LOOK_S = 3600.0
_PAUSE_S = 5.0
_SKIPPED = 1000
"""Events that nobody wants before it is noted that they were looked at."""
_REFUSALS = 8
"""Attempts before a batch is given up that the receiver answers with a refusal."""
_LONGEST_WISH_S = 3600.0
"""Longer than this no receiver is left alone, whatever it asks for."""
_GONE = 410


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds before the second attempt, doubled up to the most."""

    first_s: float = 1.0
    most_s: float = 300.0

    def wait_s(self, failures: int) -> float:
        """How long to wait after so many failures in a row; a random part keeps many senders apart."""
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30)) * random.uniform(0.75, 1.25)


class Hook:
    """Sends to one receiver. Begins where its cursor is, a new one with what happens from now on."""

    def __init__(
        self, webhook: Webhook, catalog: Catalog, cursors: Cursors, clock: Callable[[], datetime], pace: Pace
    ) -> None:
        self.webhook = webhook
        self._catalog, self._cursors, self._clock, self._pace = catalog, cursors, clock, pace
        self._cursor = self._begin(cursors.get(webhook.name))
        self._backlog = Backlog(webhook, catalog, self._cursor.after)
        delivered_at = self._cursor.delivered_at
        self._status = WebhookStatus(
            webhook=webhook,
            last_success_at=None if delivered_at is None else datetime.fromtimestamp(delivered_at, UTC),
        )
        self._lock = threading.Lock()
        self._failures = 0
        self._due = 0.0
        self._stop = threading.Event()
        self._requests: set[Request] = set()
        self._thread = threading.Thread(target=self._run, name=f"tierd-webhook-{webhook.name}", daemon=True)

    def _begin(self, known: Cursor | None) -> Cursor:
        newest = self._catalog.last_event_id()
        if known is not None and known.after > newest:
            log.warning("webhook %s: the history began anew, events are sent from now on", self.webhook.name)
            known = None
        return known or Cursor(after=newest)

    def start(self) -> None:
        """Begin."""
        self._cursors.put(self.webhook.name, self._cursor)
        self._thread.start()

    def stop_soon(self) -> None:
        """End with the next event; a request that is under way may end first."""
        self._stop.set()

    def abort(self) -> None:
        """Cut short what is under way, tests too."""
        with self._lock:
            under_way = list(self._requests)
        for request in under_way:
            request.abort()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread."""
        if self._thread.is_alive():
            self._thread.join(max(0.0, timeout_s))

    def status(self) -> WebhookStatus:
        """How it is doing. Only looks at memory."""
        pending = self._backlog.pending
        return replace(self._status, pending=pending, oldest_pending_at=self._backlog.oldest_at if pending else None)

    def test(self) -> WebhookTest:
        """Send a test event now, once, whatever else is going on."""
        now, name = self._clock(), self.webhook.name
        event = Event(id=0, at=now, kind="webhook.test", message="a test", detail={"webhook": name})
        began = time.monotonic()
        answer = self._post(f"test_{uuid.uuid4().hex}", payload.body(payload.TEST, name, [event], made_at=now))
        if answer.is_taken and self._status.state is WebhookState.FAILING:
            self._note(state=WebhookState.WORKING)
        return WebhookTest(
            webhook=name,
            is_delivered=answer.is_taken,
            status=answer.status,
            message=answer.message,
            took_s=time.monotonic() - began,
        )

    # -- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._step()
            except CatalogError as error:
                log.error("webhook %s: events cannot be read: %s", self.webhook.name, error)
                self._stop.wait(_PAUSE_S)
            except Exception:  # one odd batch must not end the thread; the next round tries again
                log.exception("webhook %s: unexpected", self.webhook.name)
                self._stop.wait(_PAUSE_S)
        if not self._backlog.pending:
            self._keep(replace(self._cursor, after=self._backlog.read_to, sending=None))

    def _step(self) -> None:
        self._backlog.read()
        if not self._backlog.pending:
            if self._backlog.read_to - self._cursor.after >= _SKIPPED:
                self._keep(replace(self._cursor, after=self._backlog.read_to, sending=None))
            self._catalog.wait_for_event(self._backlog.read_to, _LOOK_S)
            return
        wait_s = _LOOK_S if self._status.state is WebhookState.DISABLED else self._due - time.monotonic()
        if wait_s > 0:
            self._catalog.wait_for_event(self._backlog.read_to, wait_s)
            return
        self._deliver()

    def _deliver(self) -> None:
        sending, events = self._batch()
        content = payload.body(
            payload.EVENTS,
            self.webhook.name,
            events,
            made_at=datetime.fromtimestamp(sending.made_at, UTC),
            missed=sending.missed,
        )
        answer = self._post(sending.id, content)
        if answer.is_taken:
            self._taken(sending, len(events))
        elif not self._stop.is_set():  # else it was aborted, and the next daemon sends it
            self._failed(answer, sending, events)

    def _batch(self) -> tuple[Sending, list[Event]]:
        """What goes next: the same as before where it was sent and not taken."""
        sending = self._cursor.sending
        if sending is not None:
            events = self._backlog.events(sending.last)
            if len(events) == sending.events:
                return sending, events
            # Other events are wanted than when it was made: as the same delivery, they would count as known.
        last = self._backlog.last_of_first(_BATCH)
        assert last is not None
        events = self._backlog.events(last)
        sending = Sending(
            id=f"msg_{uuid.uuid4().hex}",
            last=last,
            events=len(events),
            made_at=self._clock().timestamp(),
            missed=self._cursor.missed,
        )
        self._keep(replace(self._cursor, sending=sending))
        self._failures = 0
        return sending, events

    def _post(self, delivery: str, content: bytes) -> Answer:
        # Here, because most daemons have no webhook, and it takes memory.
        from tierd.daemon.webhooks.post import Answer, Request

        try:
            keys = read_secrets(self.webhook.secret_file)
        except ConfigError as error:
            return Answer(status=None, message=error.message)
        now = self._clock()
        request = Request(self.webhook)
        with self._lock:
            self._requests.add(request)
        try:
            return request.send(content, payload.headers(delivery, now, content, keys), now)
        finally:
            with self._lock:
                self._requests.discard(request)

    def _taken(self, sending: Sending, number: int) -> None:
        now = self._clock()
        self._keep(
            Cursor(
                after=sending.last,
                missed=max(0, self._cursor.missed - sending.missed),
                delivered_at=now.timestamp(),
            )
        )
        self._backlog.drop(sending.last)
        self._failures, self._due = 0, 0.0
        if self._status.state is WebhookState.FAILING:
            log.info("webhook %s: delivers again", self.webhook.name)
        self._note(
            state=WebhookState.WORKING,
            delivered=self._status.delivered + number,
            last_success_at=now,
            next_attempt_at=None,
        )

    def _failed(self, answer: Answer, sending: Sending, events: list[Event]) -> None:
        now = self._clock()
        self._failures += 1
        if self._cursor.failing_since is None:
            self._keep(replace(self._cursor, failing_since=now.timestamp()))
            log.warning("webhook %s: %s; it is tried again", self.webhook.name, answer.message)
        wait_s = max(self._pace.wait_s(self._failures), min(answer.retry_after_s or 0.0, _LONGEST_WISH_S))
        self._due = time.monotonic() + wait_s
        self._note(
            state=WebhookState.FAILING,
            failures=self._status.failures + 1,
            last_error=answer.message,
            last_error_at=now,
            next_attempt_at=now + timedelta(seconds=wait_s),
        )
        if answer.status == _GONE:
            self._note(state=WebhookState.DISABLED, next_attempt_at=None)
            self._tell(f"{answer.message}; nothing is sent there until the next start or reload", events, 0)
        elif answer.is_refusal and self._failures >= _REFUSALS:
            self._give_up(sending.last, f"given up after {_REFUSALS} attempts: {answer.message}", events)
        else:
            self._drop_old(now, answer)

    def _drop_old(self, now: datetime, answer: Answer) -> None:
        limit = timedelta(seconds=self.webhook.give_up_after_s)
        since = self._cursor.failing_since
        if since is None or now.timestamp() - since < limit.total_seconds():
            return
        last = self._backlog.last_before(now - limit)
        if last is not None:
            self._give_up(last, f"the receiver is away for too long: {answer.message}", self._backlog.events(last))

    def _give_up(self, last: int, why: str, events: list[Event]) -> None:
        dropped = self._backlog.drop(last)
        self._keep(replace(self._cursor, after=last, missed=self._cursor.missed + dropped, sending=None))
        self._note(missed=self._status.missed + dropped)
        self._tell(why, events, dropped)

    def _tell(self, why: str, about: list[Event], missed: int) -> None:
        message = f"webhook {self.webhook.name}: {f'{missed} events are ' if missed else ''}{why}"
        if all(event.kind.startswith(OWN_KINDS) for event in about):
            # Of two receivers that are away, each would be told of the other for ever.
            log.warning("%s", message)
            return
        detail: Detail = {"webhook": self.webhook.name, "missed": missed}
        self._catalog.add_event("webhook.failed", now=self._clock(), message=message, detail=detail)

    def _keep(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._cursors.put(self.webhook.name, cursor)

    def _note(self, **changes: Any) -> None:
        with self._lock:
            self._status = replace(self._status, **changes)

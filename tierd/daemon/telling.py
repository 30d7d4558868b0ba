"""Tells the log of each event in the history: one line an event, in their order, with the ids of what it is about."""

from __future__ import annotations

import logging
import threading

from tierd.catalog import Catalog
from tierd.errors import CatalogError
from tierd.model.event import Event

log = logging.getLogger(__name__)

_BATCH = 500
_LOOK_S = 3600.0
_PAUSE_S = 5.0
_JOIN_S = 5.0


class Teller:
    """Follows the events from the time it is made. Sleeps while nothing happens."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._last = catalog.last_event_id()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tierd-teller", daemon=True)

    def start(self) -> None:
        """Begin; what happened since it was made is told as well."""
        self._thread.start()

    def stop_soon(self) -> None:
        """End with the next event, which is the last one."""
        self._stop.set()

    def finish(self) -> None:
        """Tell what is left, after `stop_soon` and the last event."""
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)
        if not self._thread.is_alive():
            self._tell_new()

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self._tell_new():
                self._stop.wait(_PAUSE_S)
            self._catalog.wait_for_event(self._last, _LOOK_S)

    def _tell_new(self) -> bool:
        try:
            while events := self._catalog.events(after=self._last, limit=_BATCH):
                for event in events:
                    _tell(event)
                    self._last = event.id
        except CatalogError as error:
            log.error("events cannot be read for the log: %s", error)
            return False
        return True


def _tell(event: Event) -> None:
    level = logging.WARNING if event.is_bad else logging.INFO
    about = {
        "event": event.kind,
        "event_id": event.id,
        "transfer": event.transfer_id,
        "snapshot": None if event.ref is None else str(event.ref),
        "dataset": None if event.ref is None else event.ref.dataset,
        "tier": event.detail.get("tier"),
    }
    what = event.kind if event.ref is None else f"{event.kind} {event.ref}"
    log.log(level, "%s", f"{what}: {event.message}" if event.message else what, extra=about)

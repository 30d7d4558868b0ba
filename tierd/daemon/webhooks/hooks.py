"""All webhooks of a daemon."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from tierd.catalog import Catalog
from tierd.daemon.webhooks.cursors import Cursors
from tierd.daemon.webhooks.hook import Hook, Pace
from tierd.errors import NotFound
from tierd.model.webhook import Webhook, WebhookStatus, WebhookTest

_FILE = "webhooks.json"
_GRACE_S = 0.5
_DEFAULT = Pace()


class Webhooks:
    """One thread each; what hangs for one hangs for no other. Without webhooks it does nothing at all."""

    def __init__(
        self,
        webhooks: Sequence[Webhook],
        catalog: Catalog,
        clock: Callable[[], datetime],
        *,
        pace: Pace = _DEFAULT,
    ) -> None:
        self._cursors = Cursors(catalog.path.with_name(_FILE), [webhook.name for webhook in webhooks])
        self._hooks = {webhook.name: Hook(webhook, catalog, self._cursors, clock, pace) for webhook in webhooks}

    def start(self) -> None:
        """Begin; what happened since it was made is sent as well."""
        self._cursors.forget_others()
        for hook in self._hooks.values():
            hook.start()

    def stop_soon(self) -> None:
        """End with the next event."""
        for hook in self._hooks.values():
            hook.stop_soon()

    def finish(self) -> None:
        """Give requests that are under way a moment, and end, after `stop_soon` and the last event."""
        for cut in (False, True):
            deadline = time.monotonic() + _GRACE_S
            for hook in self._hooks.values():
                if cut:
                    hook.abort()
            for hook in self._hooks.values():
                hook.join(deadline - time.monotonic())
        self._cursors.close()

    def statuses(self) -> list[WebhookStatus]:
        """How each is doing, in the order of the configuration. Only looks at memory."""
        return [hook.status() for hook in self._hooks.values()]

    def test(self, name: str) -> WebhookTest:
        """Send a test event now; takes up to the webhook's timeout.

        Raises:
            NotFound: there is none of that name.
        """
        hook = self._hooks.get(name)
        if hook is None:
            known = ", ".join(sorted(self._hooks))
            hint = f"There are: {known}." if known else "Add a [[webhook]] table to the configuration, and reload."
            raise NotFound(f"there is no webhook {name!r}", hint=hint)
        return hook.test()

"""What was begun and shall not be finished: releases from flash of what its phase keeps there by now."""

from __future__ import annotations

from collections.abc import Iterator

from tierd.decide.scene import is_leaving
from tierd.model.plan import View
from tierd.model.transfer import Transfer, TransferState

_UNDONE_FREELY = (TransferState.QUEUED, TransferState.RESTORING, TransferState.COPYING, TransferState.VERIFYING)


def withdrawn(view: View) -> Iterator[Transfer]:
    """Live releases to be cancelled. One that has begun to leave is finished: a warm brings it back."""
    flash = view.flash_tier.name
    for s in view.snapshots:
        live = s.live
        if live is None or not s.dataset.policy.keeps_flash or not is_leaving(live) or live.source != flash:
            continue
        if live.state in _UNDONE_FREELY and not live.cancel_requested:
            yield live

"""The page of one snapshot: its story, why it is where it is, and what can be done with it.

An action is shown before it is done: what will happen comes from the functions that decide about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from tierd.catalog import Catalog
from tierd.decide import admit, explain
from tierd.errors import Conflict, NotFound
from tierd.model.dataset import SnapshotRef
from tierd.model.plan import WarmAnswer
from tierd.model.transfer import TransferId
from tierd.model.units import format_duration, format_size
from tierd.serve.auth import Caller, Role
from tierd.serve.finding import Finder
from tierd.serve.look import Look
from tierd.serve.ports import Clock
from tierd.serve.views import Views
from tierd.serve.warming import LeaseWish, Leaving, Warming
from tierd.serve.wishes import Wishes

ACTIONS: Mapping[str, Role] = MappingProxyType(
    {
        "warm": Role.WARM,
        "pin": Role.ADMIN,
        "unpin": Role.ADMIN,
        "migrate": Role.ADMIN,
        "release": Role.ADMIN,
    }
)
"""What can be done with a snapshot, and the role it needs."""
_EVENTS = 100
_HOURS = {"1": 1, "8": 8, "24": 24, "168": 168}

Render = Callable[..., str]


class SnapshotPage:
    """Renders it. Thread-safe."""

    def __init__(
        self, *, catalog: Catalog, views: Views, look: Look, finder: Finder, clock: Clock, render: Render
    ) -> None:
        self._catalog, self._views, self._look, self._finder = catalog, views, look, finder
        self._clock, self._render = clock, render

    def content(self, ref: SnapshotRef, caller: Caller) -> str:
        """Its state, story and explanation.

        Raises:
            NotFound: there is no such snapshot.
        """
        now, s = self._clock(), self._finder.find(ref)
        events = self._catalog.events(ref=ref, limit=_EVENTS, newest_first=True)
        explanation = self._look.explanation(explain(self._views.current(), ref, now), events, self._finder.parts(s))
        return self._render(
            "snapshot.html",
            now=now,
            s=self._look.snapshot(s, self._finder.residency(s), now),
            why=explanation,
            actions=[name for name, role in ACTIONS.items() if caller.role >= role],
        )

    def preview(self, ref: SnapshotRef, action: str, caller: Caller, form_token: str) -> str:
        """What an action will do, and the form that does it.

        Raises:
            NotFound: there is no such snapshot.
        """
        says: Mapping[str, Any] = {
            "warm": self._warm,
            "pin": self._pin,
            "unpin": self._unpin,
            "migrate": self._migrate,
            "release": self._release,
        }[action](ref)
        allowed = caller.role >= ACTIONS[action]
        return self._render(
            "confirm.html",
            title=f"{action} {ref}",
            action=action,
            back=ref,
            form_token=form_token,
            lines=says["lines"],
            is_possible=says["is_possible"] and allowed,
            role=None if allowed else ACTIONS[action].name.lower(),
        )

    def preview_cancel(self, transfer_id: TransferId, caller: Caller, form_token: str) -> str:
        """What stopping a transfer will do.

        Raises:
            NotFound: there is no such transfer.
        """
        transfer = self._look.transfer(self._catalog.transfer(transfer_id))
        lines = [f"{transfer.kind} of {transfer.ref} from {transfer.source} to {transfer.destination}"]
        if transfer.finished_at is None:
            done = f"{format_size(transfer.bytes_done)} of {format_size(transfer.bytes_total)}"
            lines += [
                f"{done} are done. It stops at its next safe point; what was copied so far is removed.",
                "The snapshot stays readable at its path. Its last event says what was undone and what was not.",
            ]
        else:
            lines.append(f"It has ended as {transfer.state}: there is nothing to cancel.")
        return self._render(
            "confirm.html",
            title=f"cancel transfer {transfer_id}",
            action="cancel",
            back=None,
            form_token=form_token,
            lines=lines,
            is_possible=transfer.finished_at is None and caller.role >= Role.ADMIN,
            role=None if caller.role >= Role.ADMIN else "admin",
        )

    def _warm(self, ref: SnapshotRef) -> dict[str, Any]:
        now = self._clock()
        self._finder.find(ref)
        admission = admit(self._views.current(), ref, now)
        lines = [f"{admission.answer}: {admission.reason}."]
        if admission.ready_at is not None and admission.ready_at > now:
            lines.append(f"It would be on flash in about {format_duration(admission.ready_at - now)}.")
        lines += [
            f"{step.ref} leaves {step.source} for it ({format_size(step.frees_bytes)})." for step in admission.releases
        ]
        if admission.restore is not None:
            lines.append("Its copy is archived and would be restored first: use `tierd warm --restore` for that.")
        is_possible = admission.answer is not WarmAnswer.REFUSED and admission.restore is None
        return {"lines": lines, "is_possible": is_possible}

    def _pin(self, ref: SnapshotRef) -> dict[str, Any]:
        self._finder.find(ref)
        return {"lines": ["It stays on flash as long as the pin is there, whatever the pressure."], "is_possible": True}

    def _unpin(self, ref: SnapshotRef) -> dict[str, Any]:
        s, now = self._finder.find(ref), self._clock()
        pins = [h for h in s.holds if h.kind == "pin" and h.is_active(now)]
        lines = [f"The pin of {h.holder} ends; the policy decides about the snapshot again." for h in pins]
        return {"lines": lines or ["It is not pinned."], "is_possible": bool(pins)}

    def _migrate(self, ref: SnapshotRef) -> dict[str, Any]:
        s = self._finder.find(ref)
        flash, cold = self._finder.on_flash(s), self._finder.cold(s)
        if flash is None:
            return {"lines": ["It is not on flash: there is nothing to copy."], "is_possible": False}
        if cold is not None:
            return {"lines": [f"It has a verified copy on {cold.tier} already."], "is_possible": False}
        to = self._finder.cold_tier(flash.tier).name
        line = f"{format_size(s.snapshot.size_bytes)} are copied to {to} and verified. The flash copy stays."
        return {"lines": [line], "is_possible": True}

    def _release(self, ref: SnapshotRef) -> dict[str, Any]:
        s, now = self._finder.find(ref), self._clock()
        holds = [h for h in s.holds if h.is_active(now)]
        if self._finder.on_flash(s) is None:
            return {"lines": ["It is not on flash: there is nothing to release."], "is_possible": False}
        lines = [f"It is held: {h.kind} of {h.holder}. While it is, a release is refused." for h in holds]
        cold = self._finder.cold(s)
        if cold is None:
            lines.append("It has no cold copy yet: one is made and verified first.")
        lines.append(f"The flash copy is removed ({format_size(s.snapshot.size_bytes)}); the path stays the same.")
        return {"lines": lines, "is_possible": True}


def carry_out(
    wishes: Wishes, warming: Warming, ref: SnapshotRef, action: str, caller: str, form: Mapping[str, str]
) -> None:
    """Do what was confirmed.

    Raises:
        TierdError: what forbids it; nothing was changed then.
    """
    if action == "warm":
        hours = _HOURS.get(form.get("hours", ""), 1)
        answer = warming.warm(LeaseWish(ref=ref, ttl=timedelta(hours=hours), holder=caller, note="from the page"))
        if isinstance(answer, Leaving):
            warming.give_back(answer.lease)
            raise Conflict(
                f"{ref} is just being released", hint="It was asked to stop; warm it again in a few seconds."
            )
    elif action == "pin":
        wishes.pin(ref, caller, form.get("note", "")[:500].strip() or None)
    elif action == "unpin":
        wishes.unpin(ref)
    elif action in {"migrate", "release"}:
        wishes.migrate(ref, release=action == "release", requested_by=caller)
    else:
        raise NotFound(f"there is no action {action!r}")

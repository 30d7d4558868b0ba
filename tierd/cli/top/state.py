"""What is looked at, and what a key makes of that: values and functions of values, no terminal, no daemon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tierd.client import Overview, Ranked, Rows, Transfer

RANKINGS = ("user", "job", "program", "snapshot", "dataset")
SORTS: Mapping[str, str] = MappingProxyType({"s": "size", "v": "value", "u": "accessed", "h": "held", "n": "name"})
_LONGEST_TEXT = 200


class Name(StrEnum):
    """The views, in the order of their numbers."""

    OVERVIEW = "overview"
    SNAPSHOTS = "snapshots"
    TRANSFERS = "transfers"
    USES = "uses"


_VIEWS = tuple(Name)


@dataclass(frozen=True, kw_only=True)
class Action:
    """Something to be done once it is confirmed: `cancel` of a transfer, or `warm` of a snapshot."""

    verb: str
    target: str
    question: str


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the daemon has to be asked for so that a view can be drawn."""

    view: Name
    text: str
    sort: str
    is_reversed: bool
    offset: int
    limit: int
    by: str


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the daemon said last.

    Attributes:
        rows_for: what was asked for when `rows` were the answer.
        transfers: those of their view: live ones, then those that ended, the newest first.
        users: who was most active; ranked: by what the view of uses ranks, `ranked_by`.
        trouble: why it is older than it should be.
    """

    overview: Overview
    rows: Rows | None = None
    rows_for: Wanted | None = None
    transfers: tuple[Transfer, ...] = ()
    users: tuple[Ranked, ...] = ()
    ranked: tuple[Ranked, ...] = ()
    ranked_by: str = ""
    trouble: str | None = None


@dataclass(frozen=True, kw_only=True)
class State:
    """What somebody looks at.

    Attributes:
        at: the chosen line by view, counted from the first of all; top: the first one that is shown.
        fits: how many lines of a list fit on the screen.
        transfer_id: the chosen transfer: it stays chosen when others come and go.
        is_typing: keys are added to `text`, the filter of snapshots.
        asks: waits for y.
        message: what came of the last action, or why a key does nothing.
    """

    view: Name = Name.OVERVIEW
    sort: str = "name"
    is_reversed: bool = False
    text: str = ""
    by: str = "user"
    at: Mapping[Name, int] = field(default_factory=dict)
    top: int = 0
    fits: int = 20
    transfer_id: int | None = None
    is_typing: bool = False
    shows_help: bool = False
    asks: Action | None = None
    message: str = ""
    is_over: bool = False

    @property
    def wanted(self) -> Wanted:
        return Wanted(
            view=self.view,
            text=self.text,
            sort=self.sort,
            is_reversed=self.is_reversed,
            offset=self.top if self.view is Name.SNAPSHOTS else 0,
            limit=max(1, self.fits),
            by=self.by,
        )

    @property
    def chosen(self) -> int:
        """The chosen line of this view."""
        return self.at.get(self.view, 0)


def press(state: State, key: str, seen: Seen) -> tuple[State, Action | None]:
    """What is looked at after a key; and what is to be done, if it confirmed something."""
    if state.asks is not None:
        asked, state = state.asks, replace(state, asks=None)
        return (state, asked) if key in ("y", "Y") else (replace(state, message="nothing was done"), None)
    if state.is_typing:
        return settle(_typed(state, key), seen), None
    if state.shows_help and key != "q":
        return replace(state, shows_help=False), None
    return settle(_pressed(replace(state, message=""), key, seen), seen), None


def settle(state: State, seen: Seen) -> State:
    """The same with what is there: the chosen line exists, and is among those that are shown."""
    count = _count(state, seen)
    at = max(0, min(state.chosen, count - 1))
    if state.view is Name.TRANSFERS and seen.transfers:
        ids = [t.id for t in seen.transfers]
        at = ids.index(state.transfer_id) if state.transfer_id in ids else at
        state = replace(state, transfer_id=ids[at])
    top = max(0, min(state.top, at, count - state.fits), at - state.fits + 1)
    return replace(state, at={**state.at, state.view: at}, top=top)


def _count(state: State, seen: Seen) -> int:
    match state.view:
        case Name.SNAPSHOTS:
            return seen.rows.matching if seen.rows is not None else state.chosen + 1
        case Name.TRANSFERS:
            return len(seen.transfers)
        case Name.USES:
            return len(seen.ranked)
        case Name.OVERVIEW:
            return 0


def _typed(state: State, key: str) -> State:
    if key == "enter":
        return replace(state, is_typing=False)
    if key == "esc":
        return _first(replace(state, is_typing=False, text=""))
    if key == "clear":
        return _first(replace(state, text=""))
    if key == "backspace":
        return _first(replace(state, text=state.text[:-1]))
    if len(key) == 1 and len(state.text) < _LONGEST_TEXT:
        return _first(replace(state, text=state.text + key))
    return state


def _pressed(state: State, key: str, seen: Seen) -> State:
    if key == "q":
        return replace(state, is_over=True)
    if key == "?":
        return replace(state, shows_help=True)
    if key in ("tab", "shift tab"):
        step = 1 if key == "tab" else -1
        return _see(state, _VIEWS[(_VIEWS.index(state.view) + step) % len(_VIEWS)])
    if key in "1234" and len(key) == 1:
        return _see(state, _VIEWS[int(key) - 1])
    if key == "/":
        return replace(_see(state, Name.SNAPSHOTS), is_typing=True)
    if key == "esc" and state.text:
        return _first(replace(state, text=""))
    if key == "c":
        return _cancel(state, seen)
    if key == "w":
        return _warm(state, seen)
    if state.view is Name.SNAPSHOTS and key in SORTS:
        is_same = SORTS[key] == state.sort
        return _first(replace(state, sort=SORTS[key], is_reversed=is_same and not state.is_reversed))
    if state.view is Name.USES and key == "b":
        by = RANKINGS[(RANKINGS.index(state.by) + 1) % len(RANKINGS)]
        return _first(replace(state, by=by))
    return _moved(state, key, seen)


def _see(state: State, view: Name) -> State:
    return state if view is state.view else replace(state, view=view, top=0)


def _first(state: State) -> State:
    return replace(state, at={**state.at, state.view: 0}, top=0)


def _moved(state: State, key: str, seen: Seen) -> State:
    page = max(1, state.fits - 1)
    steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "page down": page, "home": -(10**9), "end": 10**9}
    if key not in steps:
        return state
    at = max(0, min(state.chosen + steps[key], _count(state, seen) - 1))
    chosen_id = seen.transfers[at].id if state.view is Name.TRANSFERS and seen.transfers else state.transfer_id
    return replace(state, at={**state.at, state.view: at}, transfer_id=chosen_id)


def _cancel(state: State, seen: Seen) -> State:
    if state.view is not Name.TRANSFERS:
        return replace(state, message="c cancels the transfer that is chosen in the view of transfers: press 3")
    found = next((t for t in seen.transfers if t.id == state.transfer_id), None)
    if found is None or found.is_finished:
        return replace(state, message="this transfer is over" if found else "there is no transfer to cancel")
    question = f"cancel transfer {found.id}, the {found.kind} of {found.ref}?"
    return replace(state, asks=Action(verb="cancel", target=str(found.id), question=question))


def _warm(state: State, seen: Seen) -> State:
    if state.view is not Name.SNAPSHOTS:
        return replace(state, message="w warms the snapshot that is chosen in the view of snapshots: press 2")
    at = -1 if seen.rows is None else state.chosen - seen.rows.offset
    if seen.rows is None or not 0 <= at < len(seen.rows.items):
        return replace(state, message="there is no snapshot to warm")
    ref = seen.rows.items[at].snapshot.ref
    return replace(state, asks=Action(verb="warm", target=ref, question=f"warm {ref} and hold it for an hour?"))

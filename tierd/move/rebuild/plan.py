"""Decide what a rebuild does with what was found: a pure function.

 1. Copies are of one snapshot when they carry one key.
 2. A snapshot's name is that of the path where its tree lies, or whose link leads to one of its copies (it may have
    been renamed since the copy was made); else the one that its newest copy was made under.
 3. A name goes to the snapshot that is at its path already, else to the one with the newest copy.
 4. On each tier one copy counts: the one that the path leads to, else the newest.
 5. What the snapshot is now, is what its path shows; where nothing is there, what its newest copy holds. Copies of
    anything else are stale.
A directory at a path that no manifest of its tier knows is never taken for a snapshot's own: whoever made it may have
meant anything, and the copies would soon be replaced by what is in it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from tierd.model.dataset import WHOLE, Dataset, SnapshotRef
from tierd.model.effect import PutPlacement
from tierd.model.placement import PlacementState
from tierd.model.tier import TierName
from tierd.move.rebuild.values import Action, Copy, Found, HomeTree, Left, Plan, Restore
from tierd.storage.found import FoundCopy
from tierd.storage.posix.homepath import Kind

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LISTED = "`tierd audit` lists it from now on."
_IN_THE_WAY = "To have this copy back, move away what is there, and rebuild again."


@dataclass(kw_only=True)
class _Candidate:
    """What belongs to one key, as far as it is known."""

    key: str
    ref: SnapshotRef | None
    copies: list[Copy]
    home: HomeTree | None
    linked: Copy | None

    @property
    def is_at_path(self) -> bool:
        return self.linked is not None or (self.home is not None and self.home.is_at_path)

    @property
    def newest(self) -> FoundCopy:
        """The copy that the path leads to, else the newest."""
        if self.linked is not None:
            return self.linked.copy
        if self.home is not None and self.home.is_at_path:
            return self.home.copy
        everything = [c.copy for c in self.copies]
        # A tree aside that was changed is not what its manifest says: it counts when there is nothing else.
        if self.home is not None and (self.home.is_unchanged or not everything):
            everything.append(self.home.copy)
        return max(everything, key=_age)

    @property
    def standing(self) -> tuple[bool, bool, tuple[datetime, str]]:
        """By which it gets a name that others have, too."""
        return self.is_at_path, self.home is not None and self.home.is_unchanged, _age(self.newest)


def _age(copy: FoundCopy) -> tuple[datetime, str]:
    return copy.as_of or _EPOCH, copy.location or ""


def plan(found: Found) -> Plan:
    """See the module."""
    return _Planner(found).plan()


class _Planner:
    def __init__(self, found: Found) -> None:
        self._found = found
        self._tiers = {t.name: t for t in found.tiers}
        self._datasets = {d.name: d for d in found.datasets}
        self._links = {o.target: ref for ref, o in found.paths.items() if o.kind is Kind.LINK}
        self._left: list[Left] = []

    def plan(self) -> Plan:
        by_ref: defaultdict[SnapshotRef, list[_Candidate]] = defaultdict(list)
        for candidate in self._candidates():
            problem = self._problem(candidate.ref)
            if problem is not None:
                self._leave(candidate, *problem)
            elif candidate.ref is not None and self._has_copies(candidate, self._datasets[candidate.ref.dataset]):
                by_ref[candidate.ref].append(candidate)
        restored: list[Restore] = []
        for ref in sorted(by_ref):
            first, *others = sorted(by_ref[ref], key=lambda c: c.standing, reverse=True)
            for other in others:
                what = "at the path" if first.is_at_path else "newer"
                self._leave(other, f"another snapshot of the name {ref} is {what}", _LISTED)
            one = self._restore(first, ref)
            if one is not None:
                restored.append(one)
        return Plan(restored=tuple(restored), left=tuple(self._left))

    def _candidates(self) -> list[_Candidate]:
        found: dict[str, _Candidate] = {}

        def of(key: str) -> _Candidate:
            return found.setdefault(key, _Candidate(key=key, ref=None, copies=[], home=None, linked=None))

        for held in self._found.copies:
            candidate = of(held.copy.snapshot_key)
            candidate.copies.append(held)
            if os.fsencode(self._place(held)) in self._links:
                candidate.linked = held
        for home in self._found.homes:
            of(home.copy.snapshot_key).home = home
        for candidate in found.values():
            candidate.ref = self._ref(candidate)
        return list(found.values())

    def _place(self, held: Copy) -> Path:
        return self._tiers[held.tier].root / (held.copy.location or "")

    def _ref(self, candidate: _Candidate) -> SnapshotRef | None:
        if candidate.home is not None and candidate.home.is_at_path:
            return candidate.home.ref
        if candidate.linked is not None:
            return self._links[os.fsencode(self._place(candidate.linked))]
        for copy in (candidate.newest, *(c.copy for c in candidate.copies)):
            if copy.dataset is not None and copy.name is not None:
                return SnapshotRef(copy.dataset, copy.name)
        return candidate.home.ref if candidate.home is not None else None

    def _problem(self, ref: SnapshotRef | None) -> tuple[str, str] | None:
        """Why a snapshot of this name cannot be restored, and what to do about it."""
        if ref is None:
            return "nothing says of which snapshot it is", "Look at it, and put it where it belongs by hand."
        dataset = self._datasets.get(ref.dataset)
        if dataset is None:
            how = f'Add a [[datasets]] table with name = "{ref.dataset}" and its path.'
            return f"dataset {ref.dataset} is not configured", how
        if ref.dataset in self._found.missing:
            where = dataset.path if dataset.pattern is not None else dataset.path.parent
            how = "Create it with the owner and the mode that it shall have."
            return f"the directory {where} of dataset {ref.dataset} is not there", how
        if not _matches(dataset, ref.name):
            pattern = "the whole directory" if dataset.pattern is None else f"the pattern {dataset.pattern!r}"
            return f"dataset {ref.dataset} is configured with {pattern}", "Correct the dataset's pattern."
        return None

    def _has_copies(self, candidate: _Candidate, dataset: Dataset) -> bool:
        """Leave out copies in the store of the home tier, where only the dataset's own tree counts."""
        for held in [c for c in candidate.copies if c.tier == dataset.home]:
            candidate.copies.remove(held)
            candidate.linked = None if held is candidate.linked else candidate.linked
            reason = f"tier {dataset.home} is the home of dataset {dataset.name} now, and keeps no copies of it"
            self._left.append(Left(tier=held.tier, copy=held.copy, reason=reason, hint=_LISTED))
        return bool(candidate.copies) or candidate.home is not None

    def _restore(self, candidate: _Candidate, ref: SnapshotRef) -> Restore | None:
        at_path = self._found.paths.get(ref)
        if at_path is not None and not candidate.is_at_path:
            kinds = {Kind.DIRECTORY: "another directory", Kind.LINK: f"a link to {os.fsdecode(at_path.target)}"}
            path = self._datasets[ref.dataset].snapshot_path(ref.name)
            self._leave(candidate, f"{kinds.get(at_path.kind, 'something else')} is at {path}", _IN_THE_WAY)
            return None
        dataset, home = self._datasets[ref.dataset], candidate.home
        chosen = self._choose(candidate)
        current = self._current(candidate)
        action, tier, target = self._at_path(candidate, [c for c in chosen if c.copy.content_id == current])
        placements = [_placement(c.tier, c.copy, is_current=c.copy.content_id == current) for c in chosen]
        if home is not None:
            is_at_path = action in (Action.KEEP_TREE, Action.PUT_BACK)
            placements.append(_home_placement(home, current, is_at_path=is_at_path))
        return Restore(
            key=candidate.key,
            ref=ref,
            path=dataset.snapshot_path(ref.name),
            home=dataset.home,
            action=action,
            leads_to=tier,
            target=target,
            root_inode=home.copy.root_inode if home is not None else 0,
            newest=candidate.newest,
            placements=tuple(sorted(placements, key=lambda p: self._tiers[p.tier].rank)),
        )

    def _choose(self, candidate: _Candidate) -> list[Copy]:
        """One copy per tier."""
        best: dict[TierName, Copy] = {}
        for held in sorted(candidate.copies, key=lambda c: (c is candidate.linked, _age(c.copy))):
            before = best.get(held.tier)
            if before is not None:
                reason = f"tier {held.tier} has a newer copy of this snapshot"
                self._left.append(Left(tier=held.tier, copy=before.copy, reason=reason, hint=_LISTED))
            best[held.tier] = held
        return [best[name] for name in sorted(best, key=lambda name: self._tiers[name].rank)]

    def _current(self, candidate: _Candidate) -> str | None:
        """Content id of what the snapshot is now; None where that was never digested."""
        home = candidate.home
        if home is not None and candidate.linked is None and candidate.newest is home.copy:
            return home.copy.content_id if home.is_unchanged else None
        return candidate.newest.content_id

    def _at_path(self, candidate: _Candidate, current: Sequence[Copy]) -> tuple[Action, TierName, Path | None]:
        """What is done at the path. Where nothing is there, it shall lead to the fastest copy that is current."""
        home = candidate.home
        if candidate.linked is not None:
            return Action.KEEP_LINK, candidate.linked.tier, None
        if home is not None and home.is_at_path:
            return Action.KEEP_TREE, home.tier, None
        fastest = min(current, key=lambda c: self._tiers[c.tier].rank, default=None)
        if home is not None and (fastest is None or self._is_faster(home, fastest, candidate)):
            return Action.PUT_BACK, home.tier, None
        assert fastest is not None  # without a tree at home, the newest copy is one of them
        return Action.MAKE_LINK, fastest.tier, self._place(fastest)

    def _is_faster(self, home: HomeTree, fastest: Copy, candidate: _Candidate) -> bool:
        is_current = home.is_unchanged and home.copy.content_id == candidate.newest.content_id
        return is_current and self._tiers[home.tier].rank < self._tiers[fastest.tier].rank

    def _leave(self, candidate: _Candidate, reason: str, hint: str) -> None:
        everything = [(c.tier, c.copy) for c in candidate.copies]
        if candidate.home is not None and not candidate.home.is_at_path:
            everything.append((candidate.home.tier, candidate.home.copy))
        self._left += [Left(tier=tier, copy=copy, reason=reason, hint=hint) for tier, copy in everything]


def _matches(dataset: Dataset, name: str) -> bool:
    if dataset.pattern is None or name == WHOLE:
        return dataset.pattern is None and name == WHOLE
    return fnmatchcase(name, dataset.pattern)


def _placement(tier: TierName, copy: FoundCopy, *, is_current: bool, is_at_home: bool = False) -> PutPlacement:
    return PutPlacement(
        tier=tier,
        state=PlacementState.VERIFIED if is_current else PlacementState.STALE,
        location=None if is_at_home else copy.location,
        content_id=copy.content_id,
        size_bytes=copy.size_bytes,
        entries=copy.entries,
        verified_at=copy.as_of or _EPOCH,
    )


def _home_placement(home: HomeTree, current: str | None, *, is_at_path: bool) -> PutPlacement:
    if is_at_path and not home.is_unchanged:  # an original that nobody has digested yet
        return PutPlacement(
            tier=home.tier,
            state=PlacementState.VERIFIED,
            location=None,
            content_id=None,
            size_bytes=home.copy.size_bytes,
            entries=home.copy.entries,
            verified_at=None,
        )
    is_current = home.is_unchanged and home.copy.content_id == current
    return _placement(home.tier, home.copy, is_current=is_current, is_at_home=True)

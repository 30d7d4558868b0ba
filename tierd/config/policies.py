"""Checks of policies; ages given for each tier become the settings of the first cold tier and of the others."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from tierd.config.document import Document, Draft, Values
from tierd.config.fault import Faults
from tierd.model.phase import Phase, by_phase
from tierd.model.policy import Policy
from tierd.model.tier import TierName
from tierd.model.units import format_duration

_MIGRATE, _RELEASE = "migrate_after", "release_after"
_REST = {_MIGRATE: "migrate_after_to", _RELEASE: "release_after_from"}
_LISTS = {_MIGRATE: 'like { hdd = "14d", cloud = "90d" }', _RELEASE: 'like { flash = "30d", hdd = "180d" }'}


def check_policies(document: Document, faults: Faults) -> None:
    """Check the policies, and set each of their ages in the drafts where the settings have it."""
    tiers = _by_rank(document.tiers)
    _place_ages(document.defaults, tiers, "defaults", faults)
    for dataset in document.datasets:
        _place_ages(dataset.policy, tiers, f"{dataset.where}.policy", faults)
    defaults = replace(Policy(), **document.defaults)
    is_sound = _check_order(defaults, document.defaults, tiers, "defaults", faults)
    for dataset in document.datasets:
        phase = dataset.values.get("configured_phase", Phase.TRAIN)
        # What is wrong with the defaults is said once, not again for every dataset.
        if dataset.policy and (is_sound or {_MIGRATE, _RELEASE} & dataset.policy.keys()):
            policy = in_phases(document, dataset)[phase]
            _check_order(policy, dataset.policy, tiers, f"{dataset.where}.policy", faults)


def in_phases(document: Document, dataset: Draft) -> dict[Phase, Policy]:
    """The policy of a dataset in each phase."""
    tiers = _by_rank(document.tiers)
    defaults = replace(Policy(), **document.defaults)
    return by_phase(defaults, dataset.policy, tiers[-1] if len(tiers) > 2 else None)


def _by_rank(tiers: list[Draft]) -> list[TierName]:
    """The tiers' names, flash first; empty where names or ranks are at fault: nothing can be said of tiers then."""
    ranks = {d.name: d.values.get("rank") for d in tiers if not (d.is_s3 and d.values.get("rank") == 0)}
    known = {TierName(name): rank for name, rank in ranks.items() if name is not None and rank is not None}
    if len(known) < len(tiers) or len(set(known.values())) < len(tiers) or 0 not in known.values():
        return []
    return sorted(known, key=lambda name: known[name])


def _place_ages(written: Values, tiers: Sequence[TierName], where: str, faults: Faults) -> None:
    """Split an age by tiers: a tier that is not named is never migrated to or released from by age."""
    for key, rest in _REST.items():
        if key not in written:
            continue
        ages = written[key]
        if not isinstance(ages, dict):
            # A key replaces all of the same key in the defaults.
            written[rest] = {}
            continue
        for name in ages:
            _check_name(key, name, tiers, where, faults)
        own = _own_tier(key, tiers)
        written[key] = ages.get(own)
        written[rest] = {TierName(name): age for name, age in ages.items() if name != own and name in tiers}


def _own_tier(key: str, tiers: Sequence[TierName]) -> TierName | None:
    """The tier whose age has a setting of its own: the first cold one for migrates, flash for releases."""
    number = 1 if key == _MIGRATE else 0
    return tiers[number] if len(tiers) > number else None


def _check_name(key: str, name: str, tiers: Sequence[TierName], where: str, faults: Faults) -> None:
    place, able = f"{where}.{key}.{name}", tiers[1:] if key == _MIGRATE else tiers[:-1]
    if not tiers or name in able:
        return
    listed = ", ".join(able) or "none here"
    if name not in tiers:
        near = difflib.get_close_matches(name, able, n=1)
        instead = f"Did you mean `{near[0]}`?" if near else f"Name tiers, {_LISTS[key]}; possible here: {listed}."
        faults.add(place, "is the name of no tier", instead)
    elif key == _MIGRATE:
        faults.add(place, "is flash, and nothing is migrated to flash", f"Name colder tiers; possible here: {listed}.")
    else:
        reason = "is the coldest tier: what leaves it would have no copy left"
        faults.add(place, reason, f"Name tiers above it; possible here: {listed}.")


def _check_order(policy: Policy, written: Values, tiers: Sequence[TierName], where: str, faults: Faults) -> bool:
    """Nothing is released earlier than the first copy below it is made."""
    migrates = _ages(_MIGRATE, policy.migrate_after, policy.migrate_after_to, tiers)
    releases = _ages(_RELEASE, policy.release_after, policy.release_after_from, tiers)
    is_sound = True
    for number, (shown, release) in releases.items():
        below = [(age, word) for at, (word, age) in migrates.items() if at > number]
        if below and release < min(below)[0]:
            _add_order(shown, release, *min(below)[::-1], written, where, faults)
            is_sound = False
    return is_sound


def _ages(
    key: str, own: timedelta | None, rest: Mapping[TierName, timedelta | None], tiers: Sequence[TierName]
) -> dict[int, tuple[str, timedelta]]:
    """Every age of a policy and how it is written, by the number of its tier, flash is 0."""
    number = 1 if key == _MIGRATE else 0
    named = len(tiers) > number and bool(rest)
    found = {} if own is None else {number: (f"{key}.{tiers[number]}" if named else key, own)}
    for name, age in rest.items():
        if age is not None:
            found[tiers.index(name)] = (f"{key}.{name}", age)
    return found


def _add_order(
    release_key: str,
    release: timedelta,
    migrate_key: str,
    migrate: timedelta,
    written: Values,
    where: str,
    faults: Faults,
) -> None:
    key = release_key if _RELEASE in written else migrate_key
    reason = f"{release_key} ({format_duration(release)}) is shorter than {migrate_key} ({format_duration(migrate)})"
    for missing in (_RELEASE, _MIGRATE):
        if missing not in written:
            reason += f"; {missing} is not set here"
    least = format_duration(migrate)
    faults.add(f"{where}.{key}", reason, f'Write {release_key} = "{least}" or more, or "never".')

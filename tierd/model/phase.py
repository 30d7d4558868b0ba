"""The phases of a dataset's life, and what each of them sets in its policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import Any

from tierd.model.policy import Policy
from tierd.model.tier import TierName

_AT_ONCE = timedelta(0)


class Phase(StrEnum):
    COLLECT = "collect"
    """Data still comes in: settled snapshots are copied down at once and leave flash first."""
    BUILD = "build"
    """Models are being developed on it: it stays near for some weeks after each use."""
    TRAIN = "train"
    """Jobs read it again and again; the default."""
    ARCHIVE = "archive"
    """Kept for re-training: it goes down soon, and comes back only when it is asked for."""
    DEPLOY = "deploy"
    """What is in production needs it: it is never released from flash."""


def by_phase(defaults: Policy, own: Mapping[str, Any], coldest: TierName | None = None) -> dict[Phase, Policy]:
    """The policy of a dataset in each phase: the defaults, over them what the phase sets, over that its own rules.

    Args:
        own: attributes of Policy that are written for this dataset alone.
        coldest: the last of several cold tiers; None where there is one, or none.
    """
    return {phase: replace(_laid_over(defaults, phase, coldest), **own) for phase in Phase}


def _laid_over(policy: Policy, phase: Phase, coldest: TierName | None) -> Policy:
    """What a phase sets; ages of tiers further down stay those of the defaults where it says nothing of them."""
    match phase:
        case Phase.COLLECT:
            further = dict(policy.migrate_after_to) | ({coldest: _AT_ONCE} if coldest is not None else {})
            return replace(policy, migrate_after=_AT_ONCE, migrate_after_to=further, leaves=-1)
        case Phase.BUILD:
            return replace(policy, migrate_after=timedelta(days=7), release_after=timedelta(days=30))
        case Phase.TRAIN:
            return policy
        case Phase.ARCHIVE:
            return replace(
                policy,
                migrate_after=timedelta(days=1),
                release_after=timedelta(days=3),
                min_residency=timedelta(hours=1),
            )
        case Phase.DEPLOY:
            return replace(policy, migrate_after=_AT_ONCE, release_after=None, keeps_flash=True)

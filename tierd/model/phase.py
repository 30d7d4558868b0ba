"""The phases of a dataset's life, each with what is sensible for it."""

from __future__ import annotations

from enum import StrEnum


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

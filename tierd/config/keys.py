"""Every key of the configuration file: which setting it is, and how its value is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tierd.config import values
from tierd.config.values import Reader


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        name: as written in the file.
        read: turns the TOML value into the setting's.
        field: the attribute it becomes, where that has another name (units are in the value, not in the key).
        is_required: there is no default.
    """

    name: str
    read: Reader
    field: str = ""
    is_required: bool = False

    @property
    def attribute(self) -> str:
        return self.field or self.name


TIER = (
    Key("name", values.name, is_required=True),
    Key("kind", values.tier_kind),
    Key("root", values.path, is_required=True),
    Key("rank", values.whole(0), is_required=True),
    Key("capacity", values.size_or_auto, "capacity_bytes"),
    Key("high", values.share),
    Key("low", values.share),
    Key("read_rate", values.rate_or_unlimited),
    Key("write_rate", values.rate_or_unlimited),
)
POLICY = (
    # Zero would call a tree settled while it is being written.
    Key("settle_after", values.duration),
    Key("migrate_after", values.duration_or_never),
    Key("release_after", values.duration_or_never),
    Key("min_residency", values.duration_or_zero),
    Key("verify", values.choice("read", "size")),
)
DATASET = (
    Key("name", values.name, is_required=True),
    Key("path", values.path, is_required=True),
    Key("snapshots", values.snapshot_pattern, "pattern"),
)
API = (
    Key("socket", values.path_or_off),
    Key("socket_mode", values.mode),
    Key("admins", values.user_names),
    Key("listen", values.listen_or_off),
)
MOVER = (
    Key("workers", values.whole(1)),
    Key("processes", values.whole(1)),
    Key("nice", values.whole(0, 19)),
    Key("io_class", values.choice("idle", "best-effort")),
    Key("max_attempts", values.whole(1)),
    Key("backoff", values.seconds, "backoff_s"),
    Key("backoff_max", values.seconds, "backoff_max_s"),
    Key("release_wait", values.seconds_or_zero, "release_wait_s"),
)
OBSERVE = (
    Key("tracker", values.choice("auto", "watchdog", "atime")),
    Key("scan_interval", values.seconds, "scan_interval_s"),
    Key("flush_interval", values.seconds, "flush_interval_s"),
)
LOG = (
    Key("level", values.choice("debug", "info", "warning", "error")),
    Key("format", values.choice("text", "json")),
)
TOP = (
    Key("database", values.path),
    Key("decide_interval", values.seconds, "decide_interval_s"),
)

SECTIONS: dict[str, Sequence[Key]] = {
    "tiers": TIER,
    "datasets": DATASET,
    "datasets.policy": POLICY,
    "defaults": POLICY,
    "api": API,
    "mover": MOVER,
    "observe": OBSERVE,
    "log": LOG,
}
"""Keys by section. `datasets.policy` and `api.tokens` are tables of their own inside another."""

LISTED = frozenset({"tiers", "datasets"})
"""Sections that are arrays of tables."""
INNER = {"datasets": ("policy",), "api": ("tokens",)}
"""Tables inside a section."""

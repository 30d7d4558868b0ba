"""Every key of the configuration file: which setting it is, and how its value is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tierd.config import s3_values, schedule_values, values, webhook_values, windows
from tierd.config.values import Reader
from tierd.model.tier import TierKind


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
    Key("rank", values.whole(0), is_required=True),
    Key("capacity", values.size_or_auto, "capacity_bytes"),
    Key("high", values.share),
    Key("low", values.share),
    Key("read_rate", values.rate_or_unlimited),
    Key("write_rate", values.rate_or_unlimited),
    Key("rates", windows.rates),
)
POSIX = (Key("root", values.path, is_required=True),)
S3 = (
    Key("bucket", s3_values.bucket, is_required=True),
    Key("prefix", s3_values.prefix),
    Key("endpoint", s3_values.endpoint),
    Key("region", s3_values.region),
    Key("addressing", values.choice("auto", "path", "virtual")),
    Key("ca_bundle", values.path),
    Key("proxy", s3_values.proxy),
    Key("profile", values.text),
    Key("credentials", s3_values.credentials),
    Key("encryption", values.choice("AES256", "aws:kms")),
    Key("kms_key", s3_values.kms_key),
    Key("storage_class", s3_values.storage_class),
    Key("restore_tier", values.choice("Standard", "Bulk", "Expedited")),
    Key("restore_for", s3_values.whole_days),
    Key("requester_pays", values.boolean),
    Key("tags", s3_values.tags),
    Key("verify", values.choice("store", "read")),
    Key("checksum", values.choice("auto", "crc64nvme", "md5")),
    Key("pack_size", s3_values.size_within("5 MiB", "1 GiB"), "pack_bytes"),
    Key("pack_files_up_to", s3_values.size_within("0 B", "1 GiB"), "pack_up_to"),
    Key("part_size", s3_values.size_within("5 MiB", "5 GiB"), "part_bytes"),
    Key("connections", values.whole(1, 64)),
    Key("timeout", values.seconds, "timeout_s"),
    Key("retry_for", values.seconds_or_zero, "retry_for_s"),
    # Without it the path follows from the database's and the tier's name.
    Key("state", values.path),
)
PRICES = (
    Key("currency", s3_values.currency),
    Key("put", s3_values.money),
    Key("get", s3_values.money),
    Key("retrieval", s3_values.money),
    Key("egress", s3_values.money),
    Key("storage", s3_values.money),
    Key("minimum", values.duration),
)
POLICY = (
    # Zero would call a tree settled while it is being written.
    Key("settle_after", values.duration),
    Key("migrate_after", values.ages),
    Key("release_after", values.ages),
    Key("keep_deleted", values.duration_or_never),
    Key("min_residency", values.duration_or_zero),
    Key("verify", values.choice("read", "size")),
)
DATASET = (
    Key("name", values.name, is_required=True),
    Key("path", values.path, is_required=True),
    Key("snapshots", values.snapshot_pattern, "pattern"),
    Key("phase", values.phase, "configured_phase"),
)
API = (
    Key("socket", values.path_or_off),
    Key("socket_mode", values.mode),
    Key("admins", values.user_names),
    Key("listen", values.listen_or_off),
    Key("hosts", values.host_names),
    Key("read_without_token", values.boolean),
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
    Key("busy_io", values.share_or_off),
)
OBSERVE = (
    Key("tracker", values.choice("auto", "fanotify", "watchdog", "atime")),
    Key("scan_interval", values.seconds, "scan_interval_s"),
    Key("flush_interval", values.seconds, "flush_interval_s"),
    Key("attribution", values.boolean),
    Key("ignore_programs", values.patterns),
    Key("ignore_cgroups", values.patterns),
    Key("ignore_users", values.user_ids),
)
VALUE = (
    Key("policy", values.policy_name),
    Key("promote", values.boolean),
    Key("challenger", values.factor),
    Key("cool_down", values.duration_or_zero),
    Key("daily_writes", values.size_or_unlimited),
    Key("stall_hour_price", values.money_or_none),
)
SCHEDULE = (
    Key("name", values.name, is_required=True),
    Key("snapshots", schedule_values.snapshots, is_required=True),
    Key("cron", schedule_values.cron, is_required=True),
    Key("for", values.duration, "use_for", is_required=True),
    Key("time_zone", windows.time_zone),
    Key("lead", schedule_values.lead),
)
WEBHOOK = (
    Key("name", values.name, is_required=True),
    Key("url", webhook_values.url, is_required=True),
    Key("secret_file", webhook_values.secret_file, is_required=True),
    Key("events", webhook_values.events),
    Key("timeout", webhook_values.timeout, "timeout_s"),
    Key("give_up_after", values.seconds, "give_up_after_s"),
    Key("ca_bundle", values.path),
)
QUIET = (
    Key("window", windows.window_or_off),
    Key("after", values.duration_or_zero),
)
LOG = (
    Key("level", values.choice("debug", "info", "warning", "error")),
    Key("format", values.choice("auto", "text", "json", "journal")),
)
TOP = (
    Key("database", values.path),
    Key("view", values.path),
    Key("decide_interval", values.seconds, "decide_interval_s"),
    Key("time_zone", windows.time_zone),
)

SECTIONS: dict[str, Sequence[Key]] = {
    "tiers": (*TIER, *POSIX, *S3),
    "tiers.prices": PRICES,
    "datasets": DATASET,
    "datasets.policy": POLICY,
    "defaults": POLICY,
    "schedules": SCHEDULE,
    "webhook": WEBHOOK,
    "api": API,
    "mover": MOVER,
    "observe": OBSERVE,
    "value": VALUE,
    "quiet": QUIET,
    "log": LOG,
}
"""Keys by section. `tiers.prices`, `datasets.policy` and `api.tokens` are tables of their own inside another."""
OF_KIND: dict[TierKind, Sequence[Key]] = {TierKind.POSIX: POSIX, TierKind.S3: S3}
"""Keys that only tiers of one kind have."""

LISTED = frozenset({"tiers", "datasets", "schedules", "webhook"})
"""Sections that are arrays of tables."""
INNER = {"tiers": ("prices",), "datasets": ("policy",), "api": ("tokens",)}
"""Tables inside a section."""

"""Load a configuration file, or say everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

from tierd.config import policies, rules, s3_rules, schedule_rules, webhook_rules
from tierd.config.document import Document, Draft, Values, parse_toml, read_document
from tierd.config.fault import Fault, Faults, Mounts
from tierd.config.own_places import check_own_places, place_s3
from tierd.config.places import check_places
from tierd.config.settings import ApiConfig, Config, LogConfig, MoverConfig, ObserveConfig
from tierd.config.windows import local_zone
from tierd.errors import ConfigError
from tierd.model.dataset import Dataset
from tierd.model.s3 import Prices, S3Settings
from tierd.model.schedule import Schedule
from tierd.model.tier import Tier
from tierd.model.value import Judgement
from tierd.model.webhook import Webhook
from tierd.model.windows import Quiet, TimedRate

DEFAULT_PATH = Path("/etc/tierd/config.toml")
PATH_VARIABLE = "TIERD_CONFIG"


def config_path(environ: Mapping[str, str]) -> Path:
    """Where the configuration is: what TIERD_CONFIG says, else /etc/tierd/config.toml."""
    return Path(environ.get(PATH_VARIABLE) or DEFAULT_PATH)


def load(path: Path, *, mounts: Mounts = Mounts.REQUIRED) -> Config:
    """Read and check a configuration file.

    Unless mounts are ignored, the paths of tiers and datasets come back with symbolic links resolved, so that a
    dataset's path always begins with its home's root.

    Raises:
        ConfigError: its message lists every fault.
    """
    faults = Faults()
    document = _read(path, mounts, faults)
    found = faults.found()
    if document is None or found:
        lines = "".join(f"\n  {fault}" for fault in found)
        count = "1 fault" if len(found) == 1 else f"{len(found)} faults"
        raise ConfigError(
            f"the configuration {path} has {count}:{lines}",
            hint="Correct the file; `tierd check-config` gives the same list.",
        )
    return _build(document, path)


def check(path: Path, *, mounts: Mounts = Mounts.REQUIRED) -> list[Fault]:
    """Everything that is wrong with a configuration file; empty when nothing is."""
    faults = Faults()
    _read(path, mounts, faults)
    return faults.found()


def _read(path: Path, mounts: Mounts, faults: Faults) -> Document | None:
    raw = parse_toml(path, faults)
    if raw is None:
        return None
    document = read_document(raw, faults)
    rules.check_rules(document, faults)
    policies.check_policies(document, faults)
    s3_rules.check_s3(document, faults)
    schedule_rules.check_schedules(document, faults)
    webhook_rules.check_webhooks(document, mounts, faults)
    check_places(document, mounts, faults)
    check_own_places(document, mounts, faults)
    place_s3(document)
    return document


def _build(document: Document, source: Path) -> Config:
    zone = document.top.get("time_zone") or local_zone()
    return Config(
        tiers=tuple(_tier(draft, zone) for draft in document.tiers),
        datasets=tuple(_dataset(draft, document) for draft in document.datasets),
        schedules=tuple(_schedule(draft, zone) for draft in document.schedules),
        webhooks=tuple(Webhook(**draft.values) for draft in document.webhooks),
        **document.top,
        api=ApiConfig(**document.sections["api"]),
        mover=MoverConfig(**document.sections["mover"]),
        observe=ObserveConfig(**document.sections["observe"]),
        value=Judgement(**document.sections["value"]),
        quiet=_quiet(document.sections["quiet"], zone),
        log=LogConfig(**document.sections["log"]),
        source=source,
    )


def _schedule(draft: Draft, zone: ZoneInfo) -> Schedule:
    read = Schedule(**draft.values)
    return read if read.time_zone is not None else replace(read, time_zone=zone)


def _dataset(draft: Draft, document: Document) -> Dataset:
    dataset = Dataset(**draft.values, policies=policies.in_phases(document, draft))
    return replace(dataset, policy=dataset.policies[dataset.phase])


def _quiet(section: Values, zone: ZoneInfo) -> Quiet:
    quiet = Quiet(**section)
    return quiet if quiet.window is None else replace(quiet, window=replace(quiet.window, zone=zone))


def _tier(draft: Draft, zone: ZoneInfo) -> Tier:
    written = dict(draft.values)
    timed = written.pop("rates", ())
    tier = Tier(**written)
    if draft.is_s3:
        tier = replace(tier, s3=S3Settings(**draft.s3, prices=Prices(**draft.prices)))
    return replace(tier, rates=tuple(_timed(entry, tier, zone) for entry in timed))


def _timed(entry: Values, tier: Tier, zone: ZoneInfo) -> TimedRate:
    return TimedRate(
        window=replace(entry["window"], zone=zone),
        read_rate=entry.get("read", tier.read_rate),
        write_rate=entry.get("write", tier.write_rate),
    )

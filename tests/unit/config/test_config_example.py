"""`config.example.toml` says what the code does."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tierd.config import ApiConfig, Config, LogConfig, Mounts, MoverConfig, ObserveConfig, check, keys, load
from tierd.config.keys import Key
from tierd.model.dataset import Dataset
from tierd.model.policy import Policy
from tierd.model.s3 import Prices, S3Settings
from tierd.model.schedule import Schedule
from tierd.model.tier import Tier
from tierd.model.value import Judgement
from tierd.model.webhook import Webhook
from tierd.model.windows import Quiet

EXAMPLE = Path(__file__).parents[3] / "config.example.toml"
RAW: dict[str, Any] = tomllib.loads(EXAMPLE.read_text())
UNCOMMENTED = re.sub(r"^#(?=[^ \n])", "", EXAMPLE.read_text(), flags=re.MULTILINE)
CLOUD: dict[str, Any] = tomllib.loads(UNCOMMENTED)["tiers"][2]
SCHEDULE: dict[str, Any] = tomllib.loads(UNCOMMENTED)["schedules"][0]
WEBHOOK: dict[str, Any] = tomllib.loads(UNCOMMENTED)["webhook"][0]

SECTIONS: list[tuple[str, type, Sequence[Key], dict[str, Any]]] = [
    ("tiers", Tier, (*keys.TIER, *keys.POSIX), RAW["tiers"][0]),
    ("s3", S3Settings, keys.S3, CLOUD),
    ("prices", Prices, keys.PRICES, CLOUD["prices"]),
    ("datasets", Dataset, keys.DATASET, RAW["datasets"][0]),
    ("defaults", Policy, keys.POLICY, RAW["defaults"]),
    ("schedules", Schedule, keys.SCHEDULE, SCHEDULE),
    ("webhook", Webhook, keys.WEBHOOK, WEBHOOK),
    ("api", ApiConfig, keys.API, RAW["api"]),
    ("mover", MoverConfig, keys.MOVER, RAW["mover"]),
    ("observe", ObserveConfig, keys.OBSERVE, RAW["observe"]),
    ("quiet", Quiet, keys.QUIET, RAW["quiet"]),
    ("value", Judgement, keys.VALUE, RAW["value"]),
    ("log", LogConfig, keys.LOG, RAW["log"]),
    ("", Config, keys.TOP, RAW),
]
NOT_WRITTEN = {
    ("tiers", "s3"): "keys of their own",
    ("s3", "prices"): "a table of its own",
    ("defaults", "migrate_after_to"): "an entry of migrate_after",
    ("defaults", "release_after_from"): "an entry of release_after",
    ("datasets", "home"): "follows from the path",
    ("datasets", "policy"): "a table of its own",
    ("datasets", "policies"): "the policy in each phase",
    ("datasets", "given_phase"): "said by an operator while tierd runs",
    ("defaults", "leaves"): "set by the phase",
    ("defaults", "keeps_flash"): "set by the phase",
    ("api", "tokens"): "a table of its own",
    ("", "source"): "is the file",
    **{
        ("", section): "a table of its own"
        for section in (
            "tiers",
            "datasets",
            "schedules",
            "webhooks",
            "api",
            "mover",
            "observe",
            "value",
            "quiet",
            "log",
        )
    },
}
FOLLOWS = {("s3", "state"): "from the database's path and the tier's name"}
BY_NAME = [pytest.param(*section, id=section[0] or "top") for section in SECTIONS]


def test_the_example_is_sound() -> None:
    assert check(EXAMPLE, mounts=Mounts.IGNORED) == []
    config = load(EXAMPLE, mounts=Mounts.IGNORED)
    assert [dataset.home for dataset in config.datasets] == ["flash", "hdd"]


@pytest.mark.parametrize(("section", "cls", "known", "shown"), BY_NAME)
def test_every_setting_has_a_key_and_every_key_is_shown(
    section: str, cls: type, known: Sequence[Key], shown: dict[str, Any]
) -> None:
    fields = {field.name for field in dataclasses.fields(cls)} - {
        name for place, name in NOT_WRITTEN if place == section
    }
    assert {key.attribute for key in known} == fields
    assert {key.name for key in known} <= shown.keys()


@pytest.mark.parametrize(("section", "cls", "known", "shown"), BY_NAME)
def test_every_default_shown_is_the_code_s_default(
    section: str, cls: type, known: Sequence[Key], shown: dict[str, Any]
) -> None:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in known:
        field = fields[key.attribute]
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        has_default = default is not dataclasses.MISSING or (section, key.name) in FOLLOWS
        assert key.is_required is not has_default, f"{section}.{key.name}"
        value = key.read(shown[key.name])
        # Most of an S3 tier that is not set has no words of its own: an example is shown.
        if (
            has_default
            and (section, key.name) not in FOLLOWS
            and not (default is None and section in {"s3", "prices", "schedules", "webhook"})
        ):
            assert value == default, f"{section}.{key.name}"


def test_the_s3_tier_of_the_example_is_sound_when_uncommented(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(UNCOMMENTED)
    assert check(file, mounts=Mounts.IGNORED) == []
    shown = load(file, mounts=Mounts.IGNORED).tiers[2]

    # What it shows for a key that may be left out is what follows without it.
    file.write_text(re.sub(r"^state = .*", "", UNCOMMENTED, flags=re.MULTILINE))
    assert load(file, mounts=Mounts.IGNORED).tiers[2] == shown


def test_what_is_unset_by_default_is_called_so_in_the_example() -> None:
    lines = dict(re.findall(r"^#(\w+) = (.*)", EXAMPLE.read_text(), flags=re.MULTILINE))
    unset = {key.name for key in keys.S3 if getattr(S3Settings, key.attribute, "") is None} | {"state"}
    unset |= {key.name for key in keys.PRICES if getattr(Prices, key.attribute) is None} | {"time_zone"}
    assert {name for name, rest in lines.items() if "# unset" in rest} == unset


def test_tables_inside_sections_are_shown() -> None:
    assert RAW["api"]["tokens"] == ApiConfig().tokens == {}
    assert any("policy" in dataset for dataset in RAW["datasets"])
    assert set(RAW) | {"schedules", "webhook"} == {key.name for key in keys.TOP} | {
        name for name in keys.SECTIONS if "." not in name
    }

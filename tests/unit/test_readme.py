"""What the README tells operators to write is right."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tierd.config import Mounts, check, load
from tierd.model.tier import TierKind
from tierd.storage.s3.failures import OPERATIONS

README = Path(__file__).parents[2] / "README.md"
LOCAL_TIERS = """
[[tiers]]
name = "flash"
root = "/mnt/flash"
rank = 0

[[tiers]]
name = "hdd"
root = "/mnt/hdd"
rank = 1
"""


def block(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"one {language} example is expected, in the section S3"
    return str(found[0])


def test_the_tier_of_the_readme_is_sound(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(LOCAL_TIERS + block("toml"))
    assert check(file, mounts=Mounts.IGNORED) == []
    tier = next(tier for tier in load(file, mounts=Mounts.IGNORED).tiers if tier.kind is TierKind.S3)
    assert tier.s3 is not None
    allowed = json.dumps(json.loads(block("json")))
    assert f"arn:aws:s3:::{tier.s3.bucket}/{tier.s3.prefix}/*" in allowed


def test_the_policy_of_the_readme_allows_what_tierd_asks_for_and_no_more() -> None:
    policy = json.loads(block("json"))
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert allowed == {meaning.right for meaning in OPERATIONS.values()}

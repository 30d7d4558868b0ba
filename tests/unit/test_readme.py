"""What the README tells operators to write is right."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.receiver import KEY, SECRET
from tierd.config import Mounts, check, load
from tierd.daemon.webhooks import payload
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


def section(title: str) -> str:
    return README.read_text().split(f"\n### {title}\n")[1].split("\n### ")[0]


def test_the_webhook_of_the_readme_is_sound(tmp_path: Path) -> None:
    (written,) = re.findall(r"<<'END'\n(.*?)^END$", section("Notifications"), re.DOTALL | re.MULTILINE)
    file = tmp_path / "config.toml"
    file.write_text(LOCAL_TIERS + written)
    assert check(file, mounts=Mounts.IGNORED) == []
    assert len(load(file, mounts=Mounts.IGNORED).webhooks) == 1


def test_the_readme_checks_signatures_as_they_are_made() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", section("Notifications"), re.DOTALL | re.MULTILINE)
    known: dict[str, Any] = {}
    exec(code, known)
    is_from_tierd = known["is_from_tierd"]
    now, body = datetime.now(UTC), b'{"events":[]}'
    headers = payload.headers("msg_1", now, body, [b"new" * 10, KEY])
    assert is_from_tierd(SECRET, headers, body)
    assert not is_from_tierd(SECRET, headers, body + b" ")
    assert not is_from_tierd(SECRET, headers | {"webhook-id": "msg_2"}, body)
    assert not is_from_tierd(SECRET, headers | {"webhook-timestamp": "1700000000"}, body)
    assert not is_from_tierd(SECRET, payload.headers("msg_1", now, body, [b"new" * 10]), body)

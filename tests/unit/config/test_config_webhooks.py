"""Webhooks in the configuration: what is right, what is wrong, and that no secret is ever shown."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tierd.config import Fault, Mounts, check, load
from tierd.config.webhook_values import read_secrets
from tierd.errors import ConfigError

TIERS = """
[[tiers]]
name = "flash"
root = "/mnt/flash"
rank = 0
[[tiers]]
name = "hdd"
root = "/mnt/hdd"
rank = 1
"""
HOOK = """
[[webhook]]
name = "ops"
url = "https://alerts.example.com/services/T0/s3cr3t"
secret_file = "/etc/tierd/webhook-secret"
"""


def faults(tmp_path: Path, text: str, mounts: Mounts = Mounts.IGNORED) -> list[Fault]:
    file = tmp_path / "config.toml"
    file.write_text(TIERS + text)
    return check(file, mounts=mounts)


def test_by_default_it_gets_what_somebody_should_look_at(tmp_path: Path) -> None:
    assert faults(tmp_path, HOOK) == []
    (webhook,) = load(tmp_path / "config.toml", mounts=Mounts.IGNORED).webhooks
    assert {"*.failed", "*.offline", "*.problem"} <= set(webhook.events)
    assert webhook.origin == "https://alerts.example.com/…"
    assert (webhook.timeout_s, webhook.give_up_after_s) == (10, 86_400)


@pytest.mark.parametrize(
    ("line", "key", "reason", "instead"),
    [
        ("url = 3", "url", "is a whole number, not text", "https://"),
        ("url = 'ftp://s3cr3t.example.com'", "url", "is not an http or https URL (it is not shown", "https://"),
        ("url = 'https://'", "url", "is not an http", "https://"),
        ("url = 'https://h:99999/s3cr3t'", "url", "is not an http", "https://"),
        ("url = 'https://me:s3cr3t@h/'", "url", "user name or password (it is not shown)", "without"),
        ("url = 'https://h/#s3cr3t'", "url", "# part", "without"),
        ("secret_file = 'whsec_s3cr3t'", "secret_file", "it may be a key", "whsec_$(openssl"),
        ("secret_file = 'systemd:'", "secret_file", "no name of a credential", "LoadCredential"),
        ("events = []", "events", "nothing would be sent", "transfer.failed"),
        ("events = 'tier.*'", "events", "not a list", "["),
        ("events = ['failed']", "events", "'failed' is no kind of event", "transfer.failed"),
        ("timeout = '2m'", "timeout", "is too long", "60s"),
        ("timeout = '0s'", "timeout", "is zero", "longer"),
        ("give_up_after = 'never'", "give_up_after", "", ""),
        ("secret = 's3cr3t'", "secret", "is a secret, which does not belong", "secret_file ="),
        ("evnts = ['*']", "evnts", "is an unknown key", "Did you mean `events`?"),
    ],
)
def test_a_fault_says_what_to_write_and_shows_no_secret(
    tmp_path: Path, line: str, key: str, reason: str, instead: str
) -> None:
    kept = [old for old in HOOK.splitlines() if not old.startswith(f"{key} =")]
    found = faults(tmp_path, "\n".join([*kept, line]))
    assert [fault.key for fault in found] == [f"webhook[ops].{key}"]
    assert reason in found[0].reason
    assert instead in found[0].instead
    assert "s3cr3t" not in str(found[0])


@pytest.mark.parametrize("key", ["name", "url", "secret_file"])
def test_what_is_missing_is_named(tmp_path: Path, key: str) -> None:
    kept = [line for line in HOOK.splitlines() if not line.startswith(f"{key} =")]
    (found,) = faults(tmp_path, "\n".join(kept))
    assert (found.key.split(".")[-1], found.reason) == (key, "is missing")


def test_two_of_one_name_and_the_plural_are_told(tmp_path: Path) -> None:
    assert "is used twice" in faults(tmp_path, HOOK + HOOK)[0].reason
    assert "`webhook`" in faults(tmp_path, HOOK.replace("[[webhook]]", "[[webhooks]]"))[0].instead


def test_the_files_it_names_are_looked_at_where_the_machine_is(tmp_path: Path) -> None:
    hook = HOOK.replace("/etc/tierd/webhook-secret", f"{tmp_path}/none") + f'ca_bundle = "{tmp_path}/no-ca"\n'
    found = {fault.key: fault for fault in faults(tmp_path, hook, Mounts.REQUIRED)}
    assert "cannot be read: no such file" in found["webhook[ops].secret_file"].reason
    assert "openssl rand" in found["webhook[ops].secret_file"].instead
    assert "is no file" in found["webhook[ops].ca_bundle"].reason
    # A daemon must start all the same.
    assert not [f for f in faults(tmp_path, hook, Mounts.OPTIONAL) if f.key.startswith("webhook")]


def test_a_systemd_credential_is_looked_for_where_systemd_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    assert faults(tmp_path, HOOK.replace("/etc/tierd/webhook-secret", "systemd:hook")) == []
    (webhook,) = load(tmp_path / "config.toml", mounts=Mounts.IGNORED).webhooks
    assert webhook.secret_file == tmp_path / "credentials" / "hook"


def test_secrets_are_read_one_a_line(tmp_path: Path) -> None:
    keys = (b"a" * 24, b"b" * 64)
    file = tmp_path / "secret"
    file.write_text("\n" + "\n".join("whsec_" + base64.b64encode(key).decode() for key in keys) + " \n\n")
    assert read_secrets(file) == keys


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n",
        "hunter2",
        "whsec_hunter2",
        "whsec_" + base64.b64encode(b"hunter2" * 3).decode(),
        "whsec_" + "QUJD" * 900,
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        "\xff\xfe",
        ("whsec_" + "QUJD" * 8 + "\n") * 5,
    ],
)
def test_what_is_no_secret_is_told_without_showing_it(tmp_path: Path, content: str) -> None:
    file = tmp_path / "secret"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError) as caught:
        read_secrets(file)
    assert str(file) in caught.value.message
    assert "openssl rand -base64 32" in (caught.value.hint or "")
    assert "hunter2" not in str(caught.value)

"""What is wrong in a configuration is all said at once, each with its key, the reason and what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tierd.config import Fault, Mounts, check, load
from tierd.errors import ConfigError

Check = Callable[[str], list[Fault]]

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
DATASET = """
[[datasets]]
name = "imagenet"
path = "/mnt/flash/datasets/imagenet"
"""
DIGEST = "0f" * 32


@pytest.fixture
def offline(tmp_path: Path) -> Check:
    """Check a text without looking at the file system."""

    def run(text: str) -> list[Fault]:
        file = tmp_path / "config.toml"
        file.write_text(text)
        return check(file, mounts=Mounts.IGNORED)

    return run


def test_a_small_configuration_has_no_faults(offline: Check) -> None:
    assert offline(TIERS + DATASET) == []


@pytest.mark.parametrize(
    ("text", "key", "reason", "instead"),
    [
        # unknown and misplaced keys
        ("decide_intervall = 3" + TIERS, "decide_intervall", "is an unknown key", "Did you mean `decide_interval`?"),
        ("[moover]\nworkers = 1" + TIERS, "moover", "is an unknown key", "Did you mean `mover`?"),
        ("workers = 2" + TIERS, "workers", "does not belong here", "Write `workers` in [mover]."),
        ("[log]\ndatabase = '/x'" + TIERS, "log.database", "does not belong", "at the top of the file"),
        (TIERS + "hihg = '90%'", "tiers[hdd].hihg", "is an unknown key", "`high`"),
        (TIERS + "zebra = 1", "tiers[hdd].zebra", "is an unknown key", "known here: capacity, high"),
        (TIERS + DATASET + "home = 'flash'", "datasets[imagenet].home", "is an unknown key", "known here"),
        (TIERS + DATASET + "polici = 1", "datasets[imagenet].polici", "is an unknown key", "`policy`"),
        (TIERS + DATASET + "verify = 'read'", "datasets[imagenet].verify", "does not", "[datasets.policy] or"),
        ("[api]\ntoken = 'x'" + TIERS, "api.token", "is an unknown key", "Did you mean `tokens`?"),
        # wrong types
        ("[mover]\nworkers = '2'" + TIERS, "mover.workers", "is text, not a whole number", "at least 1"),
        ("[mover]\nworkers = true" + TIERS, "mover.workers", "is true or false", "whole number"),
        ("[mover]\nworkers = 1.5" + TIERS, "mover.workers", "is a number, not a whole number", "whole number"),
        ("database = 3" + TIERS, "database", "is a whole number, not text", "quotes"),
        ("mover = 3" + TIERS, "mover", "is a whole number, not a table", "[mover]"),
        ("[tiers]\nname = 'flash'", "tiers", "is a table, not a list of tables", "[[tiers]]"),
        ("tiers = ['flash']", "tiers[#1]", "is text, not a table", "[[tiers]]"),
        ("[observe]\nscan_interval = 2020-01-01" + TIERS, "observe.scan_interval", "is a date", "duration"),
        ("[observe]\nscan_interval = []" + TIERS, "observe.scan_interval", "is a list", "duration"),
        (TIERS + DATASET + "policy = 1", "datasets[imagenet].policy", "not a table", "[datasets.policy]"),
        ("[api]\nadmins = 'root'" + TIERS, "api.admins", "is text, not a list", "[\"alice\""),
        ("[api]\nadmins = [3]" + TIERS, "api.admins", "no user name", "list of user names"),
        ("[api]\ntokens = 3" + TIERS, "api.tokens", "not a table", "[api.tokens]"),
        # values
        ("[mover]\nworkers = 0" + TIERS, "mover.workers", "0 is out of range", "at least 1"),
        ("[mover]\nnice = -5" + TIERS, "mover.nice", "-5 is out of range", "from 0 to 19"),
        ("[mover]\nbackoff = '0s'" + TIERS, "mover.backoff", "is zero", "longer than zero"),
        ("[mover]\nbackoff = '2h'" + TIERS, "mover.backoff_max", "1h is less than mover.backoff (2h)", '"2h" or more'),
        ("[mover]\nio_class = 'realtime'" + TIERS, "mover.io_class", "'realtime' is unknown", '"idle" or'),
        ("[observe]\ntracker = 'fanotify2'" + TIERS, "observe.tracker", "is unknown", '"watchdog"'),
        ("[observe]\nignore_programs = 'borg'" + TIERS, "observe.ignore_programs", "text, not a list", '["restic"'),
        ("[observe]\nignore_users = ['no-such-user']" + TIERS, "observe.ignore_users", "does not know", '"backup"'),
        ("[observe]\nignore_users = [-1]" + TIERS, "observe.ignore_users", "is no user", '"backup"'),
        ("[log]\nlevel = 'INFO'" + TIERS, "log.level", "'INFO' is unknown", '"info"'),
        ("[log]\nlevel = []" + TIERS, "log.level", "is unknown", '"info"'),
        ("[defaults]\nverify = 'sha'" + TIERS, "defaults.verify", "'sha' is unknown", '"read" or "size"'),
        ("[defaults]\nsettle_after = '0s'" + TIERS, "defaults.settle_after", "is zero", "longer than zero"),
        ("[defaults]\nmigrate_after = '14'" + TIERS + "capacity = '5 XB'", "tiers[hdd].capacity", "'XB'", "TiB"),
        (TIERS + "read_rate = '200 MB'", "tiers[hdd].read_rate", "is not a rate", "200 MB/s"),
        (TIERS + "write_rate = 0", "tiers[hdd].write_rate", "is zero", "unlimited"),
        (TIERS + "capacity = -1", "tiers[hdd].capacity", "-1 is negative", "TiB"),
        (TIERS + "high = 90", "tiers[hdd].high", "more than 100 %", '"90%"'),
        (TIERS + "high = 1.2", "tiers[hdd].high", "more than 100 %", "%"),
        (TIERS + "low = 0", "tiers[hdd].low", "is zero", "above 0 %"),
        (TIERS + "kind = 'nfs'", "tiers[hdd].kind", "'nfs' is unknown", '"posix" or "s3"'),
        (TIERS + "low = '95%'", "tiers[hdd].low", "low (0.95) is not below high (0.9)", "leave a gap"),
        (TIERS + "high = '80%'", "tiers[hdd].high", "low (0.8) is not below high (0.8)", "leave a gap"),
        ("[api]\nsocket_mode = 666" + TIERS, "api.socket_mode", "666 is not a file mode", '"0666"'),
        ("[api]\nsocket_mode = '888'" + TIERS, "api.socket_mode", "not a file mode", '"0666"'),
        ("[api]\nlisten = ':80'" + TIERS, "api.listen", "not an address", "127.0.0.1"),
        ("[api]\nlisten = 'host:0'" + TIERS, "api.listen", "not an address", "HOST:PORT"),
        ("[api]\nlisten = 'host:80'" + TIERS, "api.listen", "no tokens", "[api.tokens]"),
        ("[api]\nsocket = 'off'" + TIERS, "api.socket", "nothing listens on TCP", "api.listen"),
        # missing, doubled and contradicting entries
        ("", "tiers", "there is none", "[[tiers]]"),
        ("[[tiers]]\nname = 'f'\nroot = '/f'", "tiers[f].rank", "is missing", "`rank = …`"),
        ("[[tiers]]\nroot = '/f'\nrank = 0", "tiers[#1].name", "is missing", "`name = …`"),
        ("[[tiers]]\nname = 'f'\nroot = '/f'\nrank = 1", "tiers", "no tier has rank 0", "`rank = 0`"),
        (TIERS.replace("rank = 1", "rank = 0"), "tiers[hdd].rank", "0 is the rank of tiers[flash]", "exactly one"),
        (TIERS.replace('"hdd"', '"flash"'), "tiers[#2].name", "'flash' is used twice", "of its own"),
        (TIERS.replace('"hdd"', '".hdd"'), "tiers[.hdd].name", "cannot be used as a name", "no dot at the start"),
        (TIERS.replace('"hdd"', '"a/b"'), "tiers[a/b].name", "cannot be used as a name", "Use letters"),
        (TIERS + DATASET.replace("imagenet", "image net", 1), "datasets[image net].name", "cannot be used", "letters"),
        (TIERS + DATASET + "snapshots = 'a/b'", "datasets[imagenet].snapshots", "cannot match", '"self"'),
        (
            "[defaults]\nmigrate_after = '60d'" + TIERS,
            "defaults.migrate_after",
            "release_after (30d) is shorter than migrate_after (60d); release_after is not set here",
            'release_after = "60d" or more',
        ),
        (
            TIERS + DATASET + "[datasets.policy]\nrelease_after = '1d'",
            "datasets[imagenet].policy.release_after",
            "release_after (1d) is shorter than migrate_after (14d)",
            '"14d" or more',
        ),
        # paths, as far as they can be judged without looking
        (TIERS.replace("/mnt/hdd", "mnt/hdd"), "tiers[hdd].root", "is not absolute", "starting with /"),
        (TIERS.replace("/mnt/hdd", "~/hdd"), "tiers[hdd].root", "is not absolute", "~ is not expanded"),
        (TIERS.replace("/mnt/hdd", "/mnt/../hdd"), "tiers[hdd].root", "contains ..", "without it"),
        (TIERS.replace("/mnt/hdd", "/mnt/\\u0000"), "tiers[hdd].root", "unprintable", "plain text"),
        (TIERS.replace("/mnt/hdd", "//mnt//flash/."), "tiers[hdd].root", "same directory as the root", "of its own"),
        (TIERS.replace("/mnt/hdd", "/mnt/flash/hdd"), "tiers[hdd].root", "lies inside the root of", "beside each"),
        (TIERS.replace("/mnt/hdd", "/mnt"), "tiers[hdd].root", "contains the root of", "beside each"),
        (TIERS + DATASET.replace("/mnt/flash", "/x"), "datasets[imagenet].path", "on no configured mount", "/mnt/hdd"),
        (
            TIERS + DATASET.replace("/datasets/imagenet", ""),
            "datasets[imagenet].path",
            "is the root of tiers[flash] itself",
            "/mnt/flash/datasets",
        ),
        (
            TIERS + DATASET.replace("/datasets/", "/.tierd/"),
            "datasets[imagenet].path",
            "lies in tierd's own directory /mnt/flash/.tierd",
            "outside it",
        ),
        (
            TIERS + DATASET + DATASET.replace('"imagenet"', '"other"'),
            "datasets[other].path",
            "is the same as the path of datasets[imagenet]",
            "must not share files",
        ),
        (
            TIERS + DATASET + DATASET.replace('"imagenet"', '"other"').replace("/imagenet", "/imagenet/v1"),
            "datasets[other].path",
            "overlaps the path of datasets[imagenet]",
            "must not share files",
        ),
        (
            TIERS + DATASET + '[[datasets]]\nname = "cold"\npath = "/mnt/hdd/imagenet/cold"',
            "datasets[cold].path",
            "overlaps /mnt/hdd/imagenet, where copies of datasets[imagenet] are kept",
            "rename datasets[imagenet]",
        ),
        (
            'database = "/mnt/flash/datasets/imagenet/t.db"' + TIERS + DATASET,
            "database",
            "lies inside datasets[imagenet], which tierd moves",
            "outside it",
        ),
        ('database = "/mnt/hdd/.tierd/t.db"' + TIERS, "database", "lies in tierd's own directory", "outside it"),
    ],
)  # fmt: skip
def test_each_fault_is_named_with_its_reason_and_what_to_write_instead(
    offline: Check, text: str, key: str, reason: str, instead: str
) -> None:
    faults = offline(text)

    (fault,) = [fault for fault in faults if fault.key == key]
    assert reason in fault.reason
    assert instead in fault.instead
    assert len(faults) == 1, "one mistake is reported once, without its consequences"


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("a = 1\nb = = 2", "line 2", "not valid TOML: invalid value (column 5)"),
        ("a = 1\na = 2", "line 2", "not valid TOML: cannot overwrite a value"),
        ("a = 1\nb = '", "line 2", "not valid TOML"),
        ("a = " + "9" * 5000, "config.toml", "not valid TOML"),
        ("a = " + "[" * 100_000, "config.toml", "nested too deeply"),
    ],
)
def test_text_that_is_no_toml_is_reported_with_its_line(offline: Check, text: str, key: str, reason: str) -> None:
    (fault,) = offline(text)
    assert fault.key.endswith(key)
    assert reason in fault.reason


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    missing = check(tmp_path / "none.toml")
    assert [(fault.key, fault.reason) for fault in missing] == [
        (str(tmp_path / "none.toml"), "cannot be read: no such file or directory")
    ]
    (tmp_path / "latin1.toml").write_bytes(b'x = "\xe4"')
    assert "not UTF-8" in check(tmp_path / "latin1.toml")[0].reason


def test_nothing_that_may_be_a_token_is_ever_shown(offline: Check, tmp_path: Path) -> None:
    text = TIERS + "[api]\nlisten = 'h:80'\n[api.tokens]\n"
    swapped = offline(text + 'admin = "s3cret"\n"t0ken" = "read"\n')
    assert len(swapped) == 3
    assert not any("s3cret" in str(fault) or "t0ken" in str(fault) for fault in swapped)
    twice = offline(text + f'"{DIGEST}" = "read"\n"{DIGEST.upper()}" = "warm"\n')
    assert [fault.reason for fault in twice] == ["is there twice"]
    assert offline(text + f'"{DIGEST.upper()}" = "read"\n') == []
    config = load(tmp_path / "config.toml", mounts=Mounts.IGNORED)
    assert config.api.tokens == {DIGEST: "read"}
    assert DIGEST not in repr(config)


def test_all_faults_are_reported_at_once(offline: Check, tmp_path: Path) -> None:
    text = "colour = 1\n[mover]\nworkers = 0\n[log]\nlevel = 'loud'\n" + TIERS + "low = '95%'\n" + DATASET * 2
    keys = [fault.key for fault in offline(text)]
    assert keys == [
        "colour",
        "datasets[#2].name",
        "mover.workers",
        "log.level",
        "tiers[hdd].low",
        "datasets[#2].path",
    ]
    with pytest.raises(ConfigError) as refused:
        load(tmp_path / "config.toml", mounts=Mounts.IGNORED)
    assert "has 6 faults:" in refused.value.message
    assert all(key in refused.value.message for key in keys)


def test_one_mistake_brings_no_misleading_consequences(offline: Check) -> None:
    no_root = TIERS.replace('root = "/mnt/flash"', 'root = "flash"') + DATASET
    assert [fault.key for fault in offline(no_root)] == ["tiers[flash].root"]
    no_rank = TIERS.replace("rank = 0", 'rank = "0"') + DATASET
    assert [fault.key for fault in offline(no_rank)] == ["tiers[flash].rank"]
    bad_defaults = "[defaults]\nrelease_after = '1d'" + TIERS + DATASET + "[datasets.policy]\nmin_residency = '1h'"
    assert [fault.key for fault in offline(bad_defaults)] == ["defaults.release_after"]

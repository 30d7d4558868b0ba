"""S3 tiers: what a sound one becomes, and what is said about the others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tierd.config import Config, Fault, Mounts, check, load
from tierd.errors import ConfigError
from tierd.model.s3 import Prices, S3Settings
from tierd.model.tier import Tier, TierKind, TierName

FLASH = """
[[tiers]]
name = "flash"
root = "/mnt/flash"
rank = 0
"""
CLOUD = """
[[tiers]]
name = "cloud"
kind = "s3"
rank = 2
bucket = "cold"
"""
OTHER = CLOUD.replace("cloud", "vault").replace("rank = 2", "rank = 3")
MINIO = 'endpoint = "http://minio:9000"\n'
DATASET = '\n[[datasets]]\nname = "{name}"\npath = "{path}"\n'
SECRET = "wJalrXUtnFEMI/K7MDENG"

Checked = Callable[[str], list[Fault]]
Loaded = Callable[[str], Config]


@pytest.fixture
def checked(tmp_path: Path) -> Checked:
    def run(text: str) -> list[Fault]:
        (tmp_path / "config.toml").write_text(text)
        return check(tmp_path / "config.toml", mounts=Mounts.IGNORED)

    return run


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    def run(text: str) -> Config:
        (tmp_path / "config.toml").write_text(text)
        return load(tmp_path / "config.toml", mounts=Mounts.IGNORED)

    return run


# -- what is sound ---------------------------------------------------------------------------------------------


def test_a_bucket_is_enough(loaded: Loaded) -> None:
    settings = S3Settings(bucket="cold", state=Path("/var/lib/tierd/s3/cloud"))
    root = Path("/run/tierd/view/cloud")
    config = loaded(FLASH + CLOUD)
    assert config.tiers[1] == Tier(name=TierName("cloud"), kind=TierKind.S3, root=root, rank=2, s3=settings)
    assert config.tiers[0].s3 is None
    assert config.view == Path("/run/tierd/view")


def test_root_and_state_follow_from_the_view_the_database_and_the_name(loaded: Loaded) -> None:
    config = loaded('view = "/home/me/view"\ndatabase = "/home/me/tierd/t.db"' + FLASH + CLOUD)
    (cloud,) = [tier for tier in config.tiers if tier.s3]
    assert cloud.s3 is not None
    assert (cloud.root, cloud.s3.state) == (Path("/home/me/view/cloud"), Path("/home/me/tierd/s3/cloud"))


def test_every_key_is_read(loaded: Loaded) -> None:
    text = """
prefix = "/backup/gpu01/"
endpoint = "https://s3.example.com:9000/"
region = "eu-central-1"
addressing = "path"
ca_bundle = "/etc/ca.pem"
proxy = "http://proxy:3128"
profile = "tierd"
credentials = "/etc/tierd/s3"
encryption = "aws:kms"
kms_key = "alias/tierd"
storage_class = "STANDARD_IA"
restore_tier = "Bulk"
restore_for = "14d"
requester_pays = true
tags = { team = "vision", "cost:centre" = "42 @ x/y" }
verify = "read"
checksum = "md5"
pack_size = "256 MiB"
pack_files_up_to = "64 MiB"
part_size = "32 MiB"
connections = 16
timeout = "10s"
retry_for = 0
state = "/srv/state"
capacity = "100 TB"
high = "95%"
low = "90%"
read_rate = "200 MB/s"
write_rate = "100 MB/s"
[tiers.prices]
currency = "EUR"
put = 0.005
get = 0
retrieval = 1
egress = 0.09
storage = 0.001
minimum = "180d"
"""
    settings = S3Settings(
        bucket="cold",
        prefix="backup/gpu01",
        endpoint="https://s3.example.com:9000",
        region="eu-central-1",
        addressing="path",
        ca_bundle=Path("/etc/ca.pem"),
        proxy="http://proxy:3128",
        profile="tierd",
        credentials=Path("/etc/tierd/s3"),
        encryption="aws:kms",
        kms_key="alias/tierd",
        storage_class="STANDARD_IA",
        restore_tier="Bulk",
        restore_for=timedelta(days=14),
        requester_pays=True,
        tags={"team": "vision", "cost:centre": "42 @ x/y"},
        verify="read",
        checksum="md5",
        pack_bytes=256 << 20,
        pack_up_to=64 << 20,
        part_bytes=32 << 20,
        connections=16,
        timeout_s=10.0,
        retry_for_s=0.0,
        state=Path("/srv/state"),
        prices=Prices(
            currency="EUR", put=0.005, get=0.0, retrieval=1.0, egress=0.09, storage=0.001, minimum=timedelta(days=180)
        ),
    )
    assert loaded(FLASH + CLOUD + text).tiers[1] == Tier(
        name=TierName("cloud"),
        kind=TierKind.S3,
        root=Path("/run/tierd/view/cloud"),
        rank=2,
        capacity_bytes=100 * 10**12,
        high=0.95,
        low=0.9,
        read_rate=200_000_000,
        write_rate=100_000_000,
        s3=settings,
    )


@pytest.mark.parametrize(
    ("directory", "path"),
    [("/run/credentials/x.service", "/run/credentials/x.service/s3"), ("", "/run/credentials/tierd.service/s3")],
)
def test_a_systemd_credential_is_a_file_where_systemd_puts_it(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, directory: str, path: str
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", directory)
    config = loaded(FLASH + CLOUD + 'credentials = "systemd:s3"')
    assert config.tiers[1].s3 is not None
    assert config.tiers[1].s3.credentials == Path(path)


@pytest.mark.parametrize("written", ["", "/", "//"])
def test_a_prefix_of_slashes_is_none(loaded: Loaded, written: str) -> None:
    config = loaded(FLASH + CLOUD + f'prefix = "{written}"')
    assert config.tiers[1].s3 is not None
    assert config.tiers[1].s3.prefix == ""


@pytest.mark.parametrize(
    "text",
    [
        'storage_class = "STANDARD_IA"',
        'storage_class = "A_CLASS_OF_CEPH"',
        'restore_tier = "Expedited"\nstorage_class = "GLACIER"',
        'bucket = "0.a-b.9"',
        'endpoint = "http://[::1]:8333"',
        'endpoint = "http://far.example.com"\ncredentials = "/etc/x"',
        'addressing = "virtual"\nendpoint = "http://far.example.com"',
        'pack_size = "8 MiB"\npack_files_up_to = "8 MiB"',
        "pack_files_up_to = 0",
        'encryption = "aws:kms"',
    ],
)
def test_what_is_unusual_is_no_fault(checked: Checked, text: str) -> None:
    cloud = CLOUD.replace('bucket = "cold"', "") if "bucket" in text else CLOUD
    assert checked(FLASH + cloud + text) == []


# -- what is not ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "reason", "instead"),
    [
        ('bucket = "Cold"', "bucket", "'Cold' cannot be the name of a bucket", "3 to 63 lower-case letters"),
        ('bucket = "co"', "bucket", "cannot be the name", "3 to 63"),
        (f'bucket = "{"c" * 64}"', "bucket", "cannot be the name", "3 to 63"),
        ('bucket = "a..b"', "bucket", "cannot be the name", "dots"),
        ('bucket = "-ab"', "bucket", "cannot be the name", "at both ends"),
        ('bucket = "10.0.0.1"', "bucket", "cannot be the name", "letters"),
        ('bucket = "xn--abc"', "bucket", "cannot be the name", "letters"),
        ('bucket = "s3://cold/x"', "bucket", "is more than a bucket's name", "`prefix`"),
        ('prefix = "a//b"', "prefix", "a part that is empty", "single slashes"),
        ('prefix = "a/../b"', "prefix", "a part that is empty, . or ..", "single slashes"),
        (r'prefix = "a\nb"', "prefix", "unprintable", "plain text"),
        (f'prefix = "{"ä" * 128}"', "prefix", "has 256 bytes", "255 bytes or less"),
        ('endpoint = "minio:9000"', "endpoint", "is not an http or https URL", '"https://s3.example.com:9000"'),
        ('endpoint = "ftp://minio"', "endpoint", "is not an http or https URL", "for AWS leave endpoint out"),
        ('endpoint = "http://minio:99999"', "endpoint", "is not an http or https URL", "port"),
        ('endpoint = "http://minio:0"', "endpoint", "is not an http or https URL", "port"),
        ('endpoint = "http://[::1"', "endpoint", "is not an http or https URL", "port"),
        ('endpoint = "https://"', "endpoint", "is not an http or https URL", "host"),
        ('endpoint = "http://minio/cold"', "endpoint", "more than scheme, host and port", "goes to `bucket`"),
        ('endpoint = "http://minio?x=1"', "endpoint", "more than scheme, host and port", "goes to `bucket`"),
        ('proxy = "proxy:3128"', "proxy", "is not an http or https URL", '"http://proxy.example.com:3128"'),
        ('region = "eu central"', "region", "'eu central' cannot be a region", '"eu-central-1"'),
        ('addressing = "host"', "addressing", "'host' is unknown", '"virtual"'),
        ('ca_bundle = "ca.pem"', "ca_bundle", "is not absolute", "starting with /"),
        ('credentials = "systemd:"', "credentials", "no name of a credential", "LoadCredential="),
        ('credentials = "systemd:../x"', "credentials", "no name of a credential", '"systemd:s3"'),
        ("credentials = true", "credentials", "is true or false, not text", "AWS credentials file"),
        ('encryption = "AES128"', "encryption", "is unknown", '"AES256" or "aws:kms"'),
        ('kms_key = "alias/x"', "kms_key", 'is only used with encryption = "aws:kms"', "remove kms_key"),
        ('kms_key = "a"\nencryption = "AES256"', "kms_key", "is only used with", 'Write encryption = "aws:kms"'),
        ('storage_class = "glacier"', "storage_class", "cannot be a storage class", "in capitals"),
        ('restore_tier = "bulk"', "restore_tier", "'bulk' is unknown", '"Bulk"'),
        ('verify = "read"\nstorage_class = "GLACIER"', "verify", "GLACIER cannot be read back", '"store"'),
        (
            'restore_tier = "Expedited"\nstorage_class = "DEEP_ARCHIVE"',
            "restore_tier",
            "no expedited restore from DEEP_ARCHIVE",
            '"Bulk" (days)',
        ),
        ('restore_for = "36h"', "restore_for", "is not a number of whole days", '"7d"'),
        ("restore_for = 0", "restore_for", "is zero", "longer than zero"),
        ('requester_pays = "yes"', "requester_pays", "is text, not true or false", "without quotes"),
        ('tags = "a=b"', "tags", "is text, not a table", "{ team ="),
        ('tags = { "aws:x" = "1" }', "tags", "'aws:x' cannot be the key of a tag", "letters, digits"),
        ('tags = { "a;b" = "1" }', "tags", "'a;b' cannot be the key of a tag", "letters, digits"),
        ("tags = { a = 1 }", "tags", "the value of 'a' cannot be that of a tag", "letters, digits"),
        (f'tags = {{ a = "{"x" * 257}" }}', "tags", "the value of 'a' cannot", "up to 10"),
        (f"tags = {{ {', '.join(f'k{n} = 1' for n in range(11))} }}", "tags", "has 11 tags", "remove some"),
        ('verify = "size"', "verify", "'size' is unknown", '"store" or "read"'),
        ('checksum = "sha256"', "checksum", "'sha256' is unknown", '"crc64nvme"'),
        ('pack_size = "4 MiB"', "pack_size", "'4 MiB' is out of range", 'from "5 MiB" to "1 GiB"'),
        ('pack_size = "2 GiB"', "pack_size", "out of range", 'from "5 MiB" to "1 GiB"'),
        ("pack_size = true", "pack_size", "not a quantity", "5 MiB"),
        ('part_size = "1 MiB"', "part_size", "out of range", 'from "5 MiB" to "5 GiB"'),
        ('part_size = "6 GiB"', "part_size", "out of range", 'from "5 MiB" to "5 GiB"'),
        (
            'pack_size = "64 MiB"\npack_files_up_to = "65 MiB"',
            "pack_files_up_to",
            "pack_files_up_to (65 MiB) is more than pack_size (64 MiB)",
            'pack_files_up_to = "64 MiB"',
        ),
        (
            'pack_size = "8 MiB"\npack_files_up_to = "16 MiB"',
            "pack_files_up_to",
            "pack_files_up_to (16 MiB) is more than pack_size (8 MiB)",
            'pack_files_up_to = "8 MiB"',
        ),
        ("connections = 65", "connections", "65 is out of range", "from 1 to 64"),
        ("timeout = 0", "timeout", "is zero", "longer than zero"),
        ('addressing = "virtual"\nendpoint = "http://10.0.0.1"', "addressing", "is an address", '"path" or "auto"'),
        ('root = "/mnt/cold"', "root", "is not for a tier of kind s3", "`bucket` and `prefix`"),
        ('buckett = "cold"', "buckett", "is an unknown key", "Did you mean `bucket`?"),
        ("migrate_after = '1d'", "migrate_after", "does not belong here", "[datasets.policy] or [defaults]"),
        ("prices = 3", "prices", "is a whole number, not a table", "[tiers.prices]"),
        ("[tiers.prices]\nput = '0.005'", "prices.put", "is text, not an amount", "0.005"),
        ("[tiers.prices]\nput = -1", "prices.put", "-1 is not an amount", "0.005"),
        ("[tiers.prices]\nput = nan", "prices.put", "nan is not an amount", "0.005"),
        (f"[tiers.prices]\nput = 1{'0' * 400}", "prices.put", "is not an amount", "0.005"),
        ("[tiers.prices]\ncurrency = '$'", "prices.currency", "'$' is not a currency", '"USD"'),
        ("[tiers.prices]\nputs = 1", "prices.puts", "is an unknown key", "Did you mean `put`?"),
    ],
)  # fmt: skip
def test_each_fault_is_named_with_its_reason_and_what_to_write_instead(
    checked: Checked, text: str, key: str, reason: str, instead: str
) -> None:
    cloud = CLOUD.replace('bucket = "cold"\n', "") if text.startswith("bucket =") else CLOUD
    (fault,) = checked(FLASH + cloud + text)
    assert fault.key == f"tiers[cloud].{key}"
    assert reason in fault.reason
    assert instead in fault.instead


@pytest.mark.parametrize(
    "text",
    [
        f'access_key = "{SECRET}"',
        f'secret_key = "{SECRET}"',
        f'aws_secret_access_key = "{SECRET}"',
        f'AWS_SESSION_TOKEN = "{SECRET}"',
        f'password = "{SECRET}"',
        f'credentials = "{SECRET}"',
        f'credentials = "systemd:{SECRET}"',
        f'credentials = {{ secret = "{SECRET}" }}',
        f'endpoint = "https://tierd:{SECRET}@s3.example.com"',
        f'proxy = "http://me:{SECRET}@proxy:3128"',
        f'proxy = "me:{SECRET}@proxy"',
    ],
)
def test_a_secret_in_the_file_is_never_shown(checked: Checked, tmp_path: Path, text: str) -> None:
    (fault,) = checked(FLASH + CLOUD + text)
    assert "credentials" in fault.instead or "LoadCredential" in fault.instead
    assert SECRET not in str(fault)
    with pytest.raises(ConfigError) as refused:
        load(tmp_path / "config.toml", mounts=Mounts.IGNORED)
    assert SECRET not in str(refused.value)


def test_keys_of_the_other_kind_are_named_one_by_one(checked: Checked) -> None:
    faults = checked(FLASH + 'kind = "posix"\nbucket = "cold"\nconnections = 3\n[tiers.prices]\nput = 1')
    assert [(fault.key, fault.reason) for fault in faults] == [
        (f"tiers[flash].{key}", "is only for tiers of kind s3") for key in ("bucket", "connections", "prices")
    ]
    assert all('kind = "s3"' in fault.instead for fault in faults)


def test_one_mistake_brings_no_misleading_consequences(checked: Checked) -> None:
    (missing,) = checked(FLASH + CLOUD.replace('kind = "s3"\n', "") + "connections = 3")
    assert (missing.key, missing.instead) == ("tiers[cloud].kind", 'Add `kind = "s3"` to this table.')
    (unknown,) = checked(FLASH + CLOUD.replace('"s3"', '"S3"') + "connections = 3")
    assert (unknown.key, unknown.reason) == ("tiers[cloud].kind", "'S3' is unknown")
    (bucketless,) = checked(FLASH + CLOUD.replace('bucket = "cold"\n', ""))
    assert (bucketless.key, bucketless.reason) == ("tiers[cloud].bucket", "is missing")
    dataset = DATASET.format(name="data", path="/mnt/flash/data")
    (database,) = checked('database = "/mnt/flash/data/t.db"' + FLASH + CLOUD + dataset)
    assert database.key == "database"


@pytest.mark.parametrize("rest", ["", FLASH])
def test_flash_is_no_bucket(checked: Checked, rest: str) -> None:
    (fault,) = checked(CLOUD.replace("rank = 2", "rank = 0") + rest + "[defaults]\nmigrate_after = { hdd = '14d' }")
    assert fault.key == "tiers[cloud].rank"
    assert "an S3 tier cannot be that" in fault.reason


# -- two tiers in one bucket --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("", "", "s3://cold/ is the same place as that of tiers[cloud]"),
        ('prefix = "a"', 'prefix = "a/"', "s3://cold/a/ is the same place as that of"),
        ("", 'prefix = "a"', "s3://cold/a/ lies inside that of"),
        ('prefix = "a/b"', 'prefix = "a"', "s3://cold/a/ contains that of"),
        (MINIO, 'endpoint = "http://MINIO:9000/"', "is the same place as"),
        ('endpoint = "https://s3.x.org"', 'endpoint = "https://s3.x.org:443"', "is the same place as"),
        ('region = "eu-west-1"', 'endpoint = "https://s3.eu-west-1.amazonaws.com"', "is the same place as"),
    ],
)
def test_two_tiers_never_share_keys_of_a_bucket(checked: Checked, one: str, other: str, reason: str) -> None:
    (fault,) = checked(f"{FLASH}{CLOUD}{one}\n{OTHER}{other}")
    assert fault.key == "tiers[vault].prefix"
    assert reason in fault.reason


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('prefix = "a"', 'prefix = "ab"'),
        ("", MINIO),
        (MINIO, MINIO.replace("minio", "ceph")),
        ('endpoint = "https://s3.x.org"', 'endpoint = "https://evil-amazonaws.com"'),
    ],
)
def test_tiers_beside_each_other_may_use_one_bucket_or_one_name(checked: Checked, one: str, other: str) -> None:
    assert checked(f"{FLASH}{CLOUD}{one}\n{OTHER}{other}") == []


# -- places ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top", "state", "key", "reason"),
    [
        ("", "/mnt/flash/data/state", "tiers[cloud].state", "lies inside datasets[data], which tierd moves"),
        ("", "/mnt/flash/.tierd/s3", "tiers[cloud].state", "lies in tierd's own directory /mnt/flash/.tierd"),
        ("", "/mnt", "tiers[cloud].state", "contains datasets[data]"),
        ("", "/mnt", "tiers[cloud].state", "contains the root of tiers[flash]"),
        ("", "/var/lib/tierd", "tiers[cloud].state", "contains the database"),
        ("", "/var/lib/tierd/s3/vault/x", "tiers[vault].state", "overlaps tiers[cloud].state"),
        ('database = "/mnt/flash/s/t.db"', "/s", "tiers[vault].state", "contains datasets[data]"),
        ('view = "/mnt/flash/view"', "/s", "view", "lies inside the root of tiers[flash]"),
        ('view = "/"', "/s", "view", "contains the root of tiers[flash]"),
        ('view = "view"', "/s", "view", "is not absolute"),
    ],
)
def test_tierd_s_own_places_lie_beside_everything_else(
    checked: Checked, top: str, state: str, key: str, reason: str
) -> None:
    other = OTHER + MINIO
    # Where a default is at fault, it is because a dataset lies in it.
    path = "/mnt/flash/s/s3/vault/data" if "database" in top else "/mnt/flash/data"
    dataset = DATASET.format(name="data", path=path)
    faults = checked(f'{top}{FLASH}{CLOUD}state = "{state}"\n{other}{dataset}')
    found = [(fault.key, fault.reason) for fault in faults]
    assert any(where == key and reason in why for where, why in found), found


def test_a_bucket_is_no_home_of_a_dataset(checked: Checked) -> None:
    (fault,) = checked(FLASH + CLOUD + DATASET.format(name="data", path="/run/tierd/view/cloud/data"))
    assert fault.key == "datasets[data].path"
    assert "an S3 tier cannot be the home of a dataset" in fault.reason


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A flash directory with a dataset that is its own snapshot."""
    (tmp_path / "flash/data").mkdir(parents=True)
    return tmp_path


def on_machine(machine: Path, more: str = "") -> Path:
    file = machine / "config.toml"
    dataset = DATASET.format(name="data", path=machine / "flash/data") + 'snapshots = "self"\n'
    top = f'view = "{machine}/view"\ndatabase = "{machine}/t.db"'
    file.write_text(top + FLASH.replace("/mnt", str(machine)) + CLOUD + more + dataset)
    return file


def test_nothing_of_an_s3_tier_need_exist(machine: Path) -> None:
    file = on_machine(machine)
    assert check(file, mounts=Mounts.REQUIRED) == []
    config = load(file, mounts=Mounts.REQUIRED)
    assert config.tiers[1].root == machine / "view/cloud"
    assert not (machine / "view").exists()


def test_a_dataset_s_path_may_be_the_link_into_the_view(machine: Path) -> None:
    data = machine / "flash/data"
    data.rmdir()
    data.symlink_to(machine / "view/cloud/data/self/0011223344556677")
    config = load(on_machine(machine), mounts=Mounts.REQUIRED)
    assert (config.datasets[0].path, config.datasets[0].home) == (data, "flash")


def test_files_that_are_named_must_be_there(machine: Path) -> None:
    more = f'credentials = "{machine}/keys"\nca_bundle = "{machine}/flash"\n'
    file = on_machine(machine, more)
    assert [(fault.key, fault.reason) for fault in check(file)] == [
        ("tiers[cloud].ca_bundle", f"{machine}/flash is not a file"),
        ("tiers[cloud].credentials", f"{machine}/keys does not exist"),
    ]
    # A daemon whose keys are gone still looks after the other tiers.
    assert check(file, mounts=Mounts.OPTIONAL) == []
    (machine / "keys").touch()
    assert [fault.key for fault in check(file)] == ["tiers[cloud].ca_bundle"]


def test_a_systemd_credential_is_there_when_the_service_runs(machine: Path) -> None:
    assert check(on_machine(machine, 'credentials = "systemd:s3"\n'), mounts=Mounts.REQUIRED) == []

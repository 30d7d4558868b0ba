"""A bucket on a real S3 server, over a good network and over bad ones: what arrives, what is repeated, what is said."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.faulty_proxy import Fault, FaultyProxy, Way
from tests.seaweed import ACCESS_KEY, BUCKET, SECRET_KEY, Seaweed, free_ports
from tierd.errors import (
    Archived,
    Conflict,
    Corrupt,
    Denied,
    Interrupted,
    SourceChanged,
    SourceGone,
    StorageError,
    TierFull,
    TierOffline,
    UploadGone,
)
from tierd.model.s3 import Counts, Prices, S3Settings, money, total
from tierd.storage.s3.bucket import Bucket
from tierd.storage.s3.checksums import combine, crc64, to_base64
from tierd.storage.s3.rights import check_rights

READER = ("reader", "reader-secret")
MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A server with a second user, who may only read."""
    reader: dict[str, object] = {
        "name": "reader",
        "credentials": [{"accessKey": READER[0], "secretKey": READER[1]}],
        "actions": [f"Read:{BUCKET}", f"List:{BUCKET}"],
    }
    server = Seaweed(tmp_path_factory.mktemp("bucket") / "data", identities=[reader]).start()
    yield server
    server.kill()


def credentials(directory: Path, access: str = ACCESS_KEY, secret: str = SECRET_KEY) -> Path:
    path = directory / "credentials"
    path.write_text(f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n")
    return path


@pytest.fixture
def settings(server: Seaweed, tmp_path: Path) -> S3Settings:
    return S3Settings(
        bucket=BUCKET,
        state=tmp_path,
        prefix=f"tests/{uuid.uuid4().hex}",
        endpoint=server.endpoint,
        credentials=credentials(tmp_path),
        timeout_s=5.0,
        retry_for_s=20.0,
    )


@pytest.fixture
def bucket(settings: S3Settings) -> Bucket:
    return Bucket(settings)


@pytest.fixture
def proxy(server: Seaweed) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.s3) as proxy:
        yield proxy


def through(proxy: FaultyProxy, settings: S3Settings, **changes: Any) -> Bucket:
    """A bucket behind a bad network; it knows already which checksums the store keeps."""
    return Bucket(replace(settings, endpoint=proxy.endpoint, checksum="crc64nvme", **changes))


def read(bucket: Bucket, key: str, size: int, *, etag: str | None = None) -> bytes:
    buffer = bytearray(size)
    bucket.get_into(key, memoryview(buffer), start=0, etag=etag)
    return bytes(buffer)


# -- over a good network ---------------------------------------------------------------------------------------


def test_what_is_stored_comes_back_whole_and_in_ranges(bucket: Bucket) -> None:
    data = os.urandom(3 * MIB + 17)
    info = bucket.put("some/object", data)
    assert (info.size, info.crc64nvme) == (len(data), to_base64(crc64(data)))
    assert bucket.get("some/object") == data
    assert bucket.get("some/object", start=MIB, length=1000) == data[MIB : MIB + 1000]
    assert read(bucket, "some/object", len(data), etag=info.etag) == data
    found = bucket.head("some/object")
    assert found is not None
    assert (found.size, found.etag, found.crc64nvme) == (info.size, info.etag, info.crc64nvme)


def test_bodies_may_be_any_bytes_in_memory(bucket: Bucket) -> None:
    data = bytearray(os.urandom(100_000))
    with memoryview(data) as view:
        bucket.put("view", view[1000:50_000])
    bucket.put("array", data)
    bucket.put("empty", b"")
    assert bucket.get("view") == data[1000:50_000]
    assert bucket.get("array") == data
    assert bucket.get("empty") == b""


def test_an_object_that_does_not_exist_is_not_there(bucket: Bucket) -> None:
    assert bucket.head("nothing") is None
    with pytest.raises(SourceGone, match="nothing"):
        bucket.get("nothing")
    bucket.delete(["nothing", "nothing else"])
    bucket.delete([])


def test_a_replaced_object_is_not_read_as_the_one_that_was_meant(bucket: Bucket) -> None:
    before = bucket.put("object", b"one")
    bucket.put("object", b"two")
    with pytest.raises(SourceChanged, match="another object"):
        bucket.get("object", etag=before.etag)
    with pytest.raises(SourceChanged, match="another object"):
        read(bucket, "object", 3, etag=before.etag)


def test_a_range_behind_the_end_is_refused_and_not_filled_up(bucket: Bucket) -> None:
    bucket.put("short", b"0123456789")
    with pytest.raises(SourceChanged):
        bucket.get("short", start=5, length=10)
    with pytest.raises(SourceChanged):
        bucket.get("short", start=10, length=1)


def test_bytes_that_do_not_have_their_checksum_are_not_stored(bucket: Bucket) -> None:
    wrong = to_base64(crc64(b"what was read"))
    with pytest.raises(Corrupt, match="not what was sent"):
        bucket.put("object", b"what is sent", crc64nvme=wrong)
    assert bucket.head("object") is None
    upload = bucket.begin("object")
    with pytest.raises(Corrupt, match="not what was sent"):
        bucket.upload_part("object", upload, 1, b"what is sent", crc64nvme=wrong)
    bucket.abort("object", upload)


def test_a_new_object_replaces_none(bucket: Bucket) -> None:
    bucket.put("object", b"first", is_new=True)
    with pytest.raises(Conflict, match="exists already"):
        bucket.put("object", b"second", is_new=True)
    with pytest.raises(Conflict):
        bucket.put("object", b"first", is_new=True)
    assert bucket.get("object") == b"first"


def test_listings_are_complete_over_several_pages(bucket: Bucket) -> None:
    keys = [f"many/{n // 500}/{n:05}" for n in range(2500)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: bucket.put(key, b""), keys))
    bucket.put("other", b"")
    assert [info.key for info in bucket.list("many/")] == keys
    assert list(bucket.list_directories("many/")) == ["0", "1", "2", "3", "4"]
    bucket.delete(keys)
    assert [info.key for info in bucket.list("")] == ["other"]


@pytest.mark.parametrize("name", ["with space", "a+b=c&d", "100%", "ümläut-日本", "quo'te\"s", "semi;colon?#"])
def test_odd_keys_are_keys_like_others(bucket: Bucket, name: str) -> None:
    key = f"odd/{name}"
    data = name.encode()
    bucket.put(key, data)
    assert bucket.get(key) == data
    assert read(bucket, key, len(data)) == data
    assert [info.key for info in bucket.list("odd/")] == [key]
    bucket.delete([key])
    assert bucket.head(key) is None


# -- multipart uploads --------------------------------------------------------------------------------------------


def send(bucket: Bucket, key: str, upload: str, number: int, data: bytes) -> Any:
    return bucket.upload_part(key, upload, number, data, crc64nvme=to_base64(crc64(data)))


def whole(*parts: bytes) -> tuple[str, int]:
    return to_base64(combine((crc64(part), len(part)) for part in parts)), sum(map(len, parts))


def test_an_upload_is_resumed_from_its_parts_and_completed_once_or_twice(bucket: Bucket, settings: S3Settings) -> None:
    one, two, three = (os.urandom(5 * MIB), os.urandom(5 * MIB), os.urandom(1000))
    upload = bucket.begin("large")
    send(bucket, "large", upload, 1, one)
    send(bucket, "large", upload, 3, three)
    later = Bucket(settings)  # another process
    assert [(u.key, u.id) for u in later.uploads("")] == [("large", upload)]
    there = later.parts("large", upload)
    assert there is not None
    assert [(part.number, part.size) for part in there] == [(1, len(one)), (3, len(three))]
    missing = send(later, "large", upload, 2, two)
    crc, size = whole(one, two, three)
    parts = [there[0], missing, there[1]]
    info = later.complete("large", upload, parts, crc64nvme=crc, size=size)
    again = later.complete("large", upload, parts, crc64nvme=crc, size=size)
    assert (info.etag, info.size, info.crc64nvme) == (again.etag, size, crc)
    found = later.head("large")
    assert found is not None
    assert found.crc64nvme == crc
    assert later.get("large", start=5 * MIB - 1, length=2) == one[-1:] + two[:1]
    assert not list(later.uploads(""))


def test_an_object_is_not_made_of_parts_with_another_checksum(bucket: Bucket) -> None:
    upload = bucket.begin("large")
    part = send(bucket, "large", upload, 1, b"these bytes")
    with pytest.raises(Corrupt):
        bucket.complete("large", upload, [part], crc64nvme=to_base64(1), size=part.size)
    bucket.abort("large", upload)
    assert bucket.head("large") is None


def test_an_upload_that_was_given_up_is_gone(bucket: Bucket) -> None:
    upload = bucket.begin("large")
    part = send(bucket, "large", upload, 1, b"data")
    bucket.abort("large", upload)
    bucket.abort("large", upload)
    assert bucket.parts("large", upload) is None
    with pytest.raises(UploadGone):
        send(bucket, "large", upload, 2, b"data")
    crc, size = whole(b"data")
    with pytest.raises(UploadGone):
        bucket.complete("large", upload, [part], crc64nvme=crc, size=size)


def test_a_store_that_knows_md5_only_is_asked_for_that(settings: S3Settings) -> None:
    bucket = Bucket(replace(settings, checksum="md5"))
    one, two = os.urandom(5 * MIB), os.urandom(77)
    bucket.put("small", b"small")
    upload = bucket.begin("large")
    parts = [send(bucket, "large", upload, 1, one), send(bucket, "large", upload, 2, two)]
    crc, size = whole(one, two)
    info = bucket.complete("large", upload, parts, crc64nvme=crc, size=size)
    assert info.crc64nvme is None
    assert bucket.get("large") == one + two
    assert bucket.get("small") == b"small"


# -- over a bad network -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", list(Fault))
def test_a_download_goes_on_where_the_connection_broke(
    settings: S3Settings, bucket: Bucket, proxy: FaultyProxy, fault: Fault
) -> None:
    data = os.urandom(12 * MIB)
    info = bucket.put("object", data)
    tired = through(proxy, settings, timeout_s=1.0)
    proxy.next(fault, after=5 * MIB)
    assert read(tired, "object", len(data), etag=info.etag) == data
    counts = tired.meter.snapshot()["get"]
    assert proxy.faults == 1
    assert (counts.requests, counts.retries, counts.errors) == (2, 1, 0)
    assert counts.bytes_down < len(data) + 3 * MIB  # what had arrived was not fetched again


def test_a_download_never_goes_on_in_another_object(settings: S3Settings, bucket: Bucket, proxy: FaultyProxy) -> None:
    bucket.put("object", os.urandom(12 * MIB))
    replaced = threading.Event()

    def replace_it() -> None:
        if proxy.faults and not replaced.is_set():
            replaced.set()
            bucket.put("object", os.urandom(12 * MIB))

    tired = through(proxy, settings, timeout_s=1.0)
    tired.on_wait = replace_it
    proxy.next(Fault.HANG, after=5 * MIB)
    with pytest.raises(SourceChanged):
        read(tired, "object", 12 * MIB)


@pytest.mark.parametrize("fault", list(Fault))
def test_an_upload_that_breaks_is_sent_again(
    settings: S3Settings, bucket: Bucket, proxy: FaultyProxy, fault: Fault
) -> None:
    data = os.urandom(12 * MIB)
    tired = through(proxy, settings, timeout_s=1.0)
    proxy.next(fault, after=5 * MIB, way=Way.UP)
    tired.put("object", data)
    assert proxy.faults == 1
    assert bucket.get("object") == data
    assert tired.meter.snapshot()["put"].retries == 1


def test_an_answer_that_is_lost_does_not_make_a_conflict_of_our_own_object(
    settings: S3Settings, bucket: Bucket, proxy: FaultyProxy
) -> None:
    tired = through(proxy, settings)
    proxy.next(Fault.RESET, after=0)
    tired.put("object", b"ours", is_new=True)
    assert proxy.faults == 1
    proxy.next(Fault.RESET, after=0)
    with pytest.raises(Conflict):
        tired.put("object", b"another", is_new=True)
    assert bucket.get("object") == b"ours"


def test_a_completion_whose_answer_is_lost_is_found_done(
    settings: S3Settings, bucket: Bucket, proxy: FaultyProxy
) -> None:
    data = os.urandom(1000)
    upload = bucket.begin("object")
    part = send(bucket, "object", upload, 1, data)
    crc, size = whole(data)
    tired = through(proxy, settings)
    proxy.next(Fault.RESET, after=0)
    info = tired.complete("object", upload, [part], crc64nvme=crc, size=size)
    assert proxy.faults == 1
    assert info.crc64nvme == crc
    assert bucket.get("object") == data


def test_an_overloaded_store_gets_half_as_many_requests_and_then_more_again(
    settings: S3Settings, bucket: Bucket, proxy: FaultyProxy
) -> None:
    tired = through(proxy, settings, connections=8)
    proxy.answer_503(1)
    bucket.put("object", b"x")
    assert tired.get("object") == b"x"
    assert proxy.refused == 1
    assert tired.pace.allowed == 4
    deadline = time.monotonic() + 20
    while tired.pace.allowed == 4 and time.monotonic() < deadline:
        tired.get("object")
    assert tired.pace.allowed == 5


def test_a_store_that_stays_overloaded_is_given_up_with_its_own_words(settings: S3Settings, proxy: FaultyProxy) -> None:
    tired = through(proxy, settings, retry_for_s=1.0)
    proxy.answer_503(1000)
    with pytest.raises(Exception, match="reduce your request rate") as failed:
        tired.put("object", b"x")
    assert failed.value.__class__.__name__ == "StorageError"
    assert tired.pace.allowed < 8
    proxy.calm()


def test_a_server_that_is_killed_and_comes_back_is_waited_for(tmp_path: Path) -> None:
    server = Seaweed(tmp_path / "data").start()
    try:
        settings = S3Settings(
            bucket=BUCKET, state=tmp_path, endpoint=server.endpoint, credentials=credentials(tmp_path), retry_for_s=30.0
        )
        bucket = Bucket(settings)
        bucket.put("before", b"before")
        server.kill()
        again = threading.Event()

        def start_it() -> None:
            if not again.is_set() and bucket.meter.snapshot()["put"].retries:
                again.set()
                server.start()

        bucket.on_wait = start_it
        bucket.put("after", b"after")
        assert again.is_set()
        assert bucket.get("before") + bucket.get("after") == b"beforeafter"
    finally:
        server.kill()


def test_a_store_that_never_answers_is_off_line_within_the_deadline(settings: S3Settings) -> None:
    port = free_ports(1)[0]
    bucket = Bucket(replace(settings, endpoint=f"http://127.0.0.1:{port}", retry_for_s=1.5))
    began = time.monotonic()
    with pytest.raises(TierOffline, match=f"127.0.0.1:{port}.*cannot be reached.*refused"):
        bucket.get("object")
    assert time.monotonic() - began < 15
    assert bucket.meter.snapshot()["get"].retries > 1


def test_a_store_that_hangs_is_off_line_within_the_deadline(settings: S3Settings, proxy: FaultyProxy) -> None:
    bucket = through(proxy, settings, timeout_s=0.5, retry_for_s=1.5)
    proxy.next(Fault.HANG, after=0, times=100)
    with pytest.raises(TierOffline, match="does not answer in time"):
        bucket.get("object")
    assert bucket.pace.allowed < 8


class Enough(Exception):
    """A caller's own wish to stop."""


@pytest.mark.parametrize("way", list(Way))
def test_a_caller_stops_a_request_that_hangs(
    settings: S3Settings, bucket: Bucket, proxy: FaultyProxy, way: Way
) -> None:
    data = os.urandom(12 * MIB)
    bucket.put("object", data)
    tired = through(proxy, settings, timeout_s=60.0)
    asked = 0

    def stop() -> None:
        nonlocal asked
        if proxy.faults:
            asked += 1
            if asked > 3:
                raise Enough

    tired.on_wait = stop
    proxy.next(Fault.HANG, after=MIB, way=way)
    began = time.monotonic()
    with pytest.raises(Enough):
        read(tired, "object", len(data)) if way is Way.DOWN else tired.put("other", data)
    assert time.monotonic() - began < 10
    tired.on_wait = None
    assert tired.get("object", length=10) == data[:10]  # the bucket can still be used


def test_a_caller_stops_what_is_only_waiting_to_be_tried_again(settings: S3Settings) -> None:
    bucket = Bucket(replace(settings, endpoint=f"http://127.0.0.1:{free_ports(1)[0]}", retry_for_s=60.0))

    def stop() -> None:
        if bucket.meter.snapshot()["get"].retries > 1:
            raise Interrupted("asked to stop")

    bucket.on_wait = stop
    with pytest.raises(Interrupted):
        bucket.get("object")


def test_the_rate_is_limited_in_each_direction(bucket: Bucket) -> None:
    data = os.urandom(2 * MIB)
    bucket.put("object", data)
    bucket.limit(up=4 * MIB)
    began = time.monotonic()
    bucket.put("object", data)
    assert time.monotonic() - began > 0.4
    bucket.limit(down=4 * MIB)
    began = time.monotonic()
    assert bucket.get("object") == data
    assert time.monotonic() - began > 0.4


# -- what is said -------------------------------------------------------------------------------------------------


def test_a_wrong_secret_is_told_from_an_unknown_key(settings: S3Settings, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    wrong = Bucket(replace(settings, credentials=credentials(tmp_path / "w", secret="not-the-secret")))
    with pytest.raises(Denied, match="the secret key is not the one") as failed:
        wrong.put("object", b"x")
    assert "not-the-secret" not in f"{failed.value!r} {failed.value.hint}"
    unknown = Bucket(replace(settings, credentials=credentials(tmp_path / "w", access="nobody")))
    with pytest.raises(Denied, match="does not know the access key"):
        unknown.get("object")
    with pytest.raises(Denied, match="does not know the access key"):
        unknown.head("object")


def test_a_missing_bucket_is_named(settings: S3Settings) -> None:
    bucket = Bucket(replace(settings, bucket="no-such-bucket"))
    with pytest.raises(TierOffline, match=r"no-such-bucket.*the bucket does not exist"):
        bucket.get("object")
    with pytest.raises(TierOffline, match="the bucket does not exist"):
        list(bucket.list(""))


def test_the_right_that_is_missing_is_named(settings: S3Settings, bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    bucket.put("object", b"x")
    reader = Bucket(replace(settings, credentials=credentials(tmp_path / "r", *READER), checksum="crc64nvme"))
    assert reader.get("object") == b"x"
    assert [info.key for info in reader.list("obj")] == ["object"]
    with pytest.raises(Denied, match="the right s3:PutObject is missing") as failed:
        reader.put("object", b"y")
    assert failed.value.hint is not None
    assert "s3:PutObject" in failed.value.hint
    with pytest.raises(Denied, match="s3:DeleteObject"):
        reader.delete(["object"])
    with pytest.raises(Denied, match="s3:PutObject"):
        reader.begin("object")
    assert bucket.get("object") == b"x"


def test_a_name_that_does_not_resolve_is_said_at_once(settings: S3Settings) -> None:
    bucket = Bucket(replace(settings, endpoint="http://store.invalid:9000"))
    began = time.monotonic()
    with pytest.raises(TierOffline, match=r"does not resolve|cannot be reached"):
        bucket.get("object")
    assert time.monotonic() - began < 15


def test_a_store_without_tls_is_no_secure_connection(settings: S3Settings, server: Seaweed) -> None:
    bucket = Bucket(replace(settings, endpoint=f"https://127.0.0.1:{server.s3}"))
    with pytest.raises(TierOffline, match="no secure connection"):
        bucket.get("object")


def test_credentials_that_cannot_be_used_are_refused_before_anything_is_sent(
    settings: S3Settings, tmp_path: Path
) -> None:
    with pytest.raises(Denied, match="cannot read the credentials file"):
        Bucket(replace(settings, credentials=tmp_path / "missing"))
    (tmp_path / "odd").write_text("aws_secret_access_key = hidden\n")
    with pytest.raises(Denied, match="cannot be understood") as failed:
        Bucket(replace(settings, credentials=tmp_path / "odd"))
    assert "hidden" not in str(failed.value)
    (tmp_path / "half").write_text("[default]\naws_access_key_id = tierd\n")
    with pytest.raises(Denied, match="aws_secret_access_key"):
        Bucket(replace(settings, credentials=tmp_path / "half"))


def test_rights_are_found_out_and_nothing_is_left(settings: S3Settings, bucket: Bucket, tmp_path: Path) -> None:
    findings = check_rights(settings)
    assert [f for f in findings if not f.is_ok] == []
    assert {"s3:PutObject", "s3:GetObject", "s3:ListBucket", "s3:DeleteObject", "s3:AbortMultipartUpload"} <= {
        f.right for f in findings
    }
    assert not list(bucket.list(""))
    assert not list(bucket.uploads(""))
    (tmp_path / "r").mkdir()
    findings = check_rights(replace(settings, credentials=credentials(tmp_path / "r", *READER)))
    missing = {f.right: f.message for f in findings if not f.is_ok}
    assert "s3:PutObject" in missing["s3:PutObject"]
    assert [f.right for f in findings if f.is_ok] == ["s3:ListBucket"]


def test_a_store_that_is_off_line_is_one_finding(settings: S3Settings) -> None:
    off = replace(settings, endpoint=f"http://127.0.0.1:{free_ports(1)[0]}", retry_for_s=0.5)
    assert [(f.right, f.is_ok) for f in check_rights(off)] == [("connection", False)]


# -- tierd check-config --connect ---------------------------------------------------------------------------------


def checked(settings: S3Settings, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The verb as an operator calls it, on a configuration with a flash tier and this bucket."""
    (tmp_path / "flash" / "ds").mkdir(parents=True, exist_ok=True)
    config = tmp_path / "config.toml"
    config.write_text(
        f"""
database = "{tmp_path}/tierd.db"
[[tiers]]
name = "flash"
root = "{tmp_path}/flash"
rank = 0
[[tiers]]
name = "cloud"
kind = "s3"
rank = 2
bucket = "{settings.bucket}"
prefix = "{settings.prefix}"
endpoint = "{settings.endpoint}"
region = "us-east-1"
credentials = "{settings.credentials}"
[[datasets]]
name = "ds"
path = "{tmp_path}/flash/ds"
"""
    )
    command = [sys.executable, "-m", "tierd", "check-config", "--connect", "--config", str(config), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_an_operator_sees_whether_a_tier_can_be_used(settings: S3Settings, bucket: Bucket, tmp_path: Path) -> None:
    done = checked(settings, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "✗" not in done.stdout
    assert {"s3:PutObject", "s3:DeleteObject", "checksums"} <= set(done.stdout.split())
    assert not list(bucket.list(""))
    assert not list(bucket.uploads(""))


@pytest.mark.parametrize("fault", ["reader", "secret", "bucket", "endpoint"])
def test_an_operator_is_told_what_is_wrong_with_a_tier(settings: S3Settings, tmp_path: Path, fault: str) -> None:
    for user, secret in (READER, ("tierd", "wrong")):
        (tmp_path / user).mkdir()
        credentials(tmp_path / user, user, secret)
    changed, said = {
        "reader": ({"credentials": tmp_path / "reader" / "credentials"}, "s3:PutObject"),
        "secret": ({"credentials": tmp_path / "tierd" / "credentials"}, "secret"),
        "bucket": ({"bucket": "no-such-bucket"}, "no-such-bucket"),
        "endpoint": ({"endpoint": f"http://127.0.0.1:{free_ports(1)[0]}"}, "127.0.0.1"),
    }[fault]
    done = checked(replace(settings, **changed), tmp_path, "--json")
    assert done.returncode == 9, done.stdout + done.stderr
    bad = [f for f in json.loads(done.stdout)["tiers"] if not f["is_ok"]]
    assert {f["tier"] for f in bad} == {"cloud"}
    assert any(said in f["message"] for f in bad), bad
    assert "Traceback" not in done.stderr


# -- over TLS -----------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate of this machine, signed by itself, in one file."""
    path = tmp_path / "store.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(tmp_path / "certificate"),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + (tmp_path / "certificate").read_text())
    return path


@pytest.fixture
def secure(server: Seaweed, certificate: Path) -> Iterator[str]:
    """The endpoint of the same store behind TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(64 << 10):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    class Front(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as near,
                socket.create_connection(("127.0.0.1", server.s3)) as far,
            ):
                up = threading.Thread(target=pump, args=(near, far))
                up.start()
                pump(far, near)
                up.join()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Front) as front:
        thread = threading.Thread(target=front.serve_forever, args=(0.05,))
        thread.start()
        yield f"https://127.0.0.1:{front.server_address[1]}"
        front.shutdown()
        thread.join()


def test_large_bodies_pass_through_tls_both_ways(settings: S3Settings, secure: str, certificate: Path) -> None:
    bucket = Bucket(replace(settings, endpoint=secure, ca_bundle=certificate, connections=4))
    data = os.urandom(8 * MIB + 3)

    def there_and_back(number: int) -> bool:
        info = bucket.put(f"object{number}", data)
        return read(bucket, f"object{number}", len(data), etag=info.etag) == data

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(there_and_back, range(8)))
    assert bucket.meter.snapshot()["put"].retries == 0


def test_a_certificate_that_nobody_vouches_for_is_refused(settings: S3Settings, secure: str) -> None:
    bucket = Bucket(replace(settings, endpoint=secure))
    with pytest.raises(TierOffline, match=r"no secure connection.*certificate") as failed:
        bucket.get("object")
    assert "ca_bundle" in str(failed.value.hint)
    assert bucket.meter.snapshot()["get"].retries == 0


# -- what goes over the wire --------------------------------------------------------------------------------------


class Recorder(BaseHTTPRequestHandler):
    """A store that agrees with everything and remembers the headers. `status` and `body` change its mind."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[dict[str, str]]] = []
    status, body, ahead_s = 200, b"", 0.0

    def do_PUT(self) -> None:
        self.seen.append({k.lower(): v for k, v in self.headers.items()})
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("ETag", '"0123"')
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + self.ahead_s if timestamp is None else timestamp)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[tuple[type[Recorder], str]]:
    class Mine(Recorder):
        seen: ClassVar[list[dict[str, str]]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Mine) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield Mine, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_body_goes_once_with_one_checksum_and_is_not_hashed_again(
    settings: S3Settings, recorder: tuple[type[Recorder], str]
) -> None:
    store, endpoint = recorder
    bucket = Bucket(
        replace(
            settings,
            endpoint=endpoint,
            checksum="crc64nvme",
            encryption="aws:kms",
            kms_key="key-1",
            storage_class="DEEP_ARCHIVE",
            requester_pays=True,
            tags={"owner": "a b", "team": "x&y"},
        )
    )
    data = os.urandom(MIB)
    bucket.put("object", data, metadata={"mtime": "1"})
    bucket.put("small", b"x", storage_class="STANDARD")
    [first, second] = store.seen
    assert first["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert [name for name in first if "checksum" in name or "md5" in name] == ["x-amz-checksum-crc64nvme"]
    assert first["x-amz-checksum-crc64nvme"] == to_base64(crc64(data))
    assert not {"expect", "transfer-encoding", "content-encoding", "x-amz-trailer"} & set(first)
    assert first["content-length"] == str(MIB)
    assert first["x-amz-server-side-encryption"] == "aws:kms"
    assert first["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
    assert first["x-amz-tagging"] == "owner=a+b&team=x%26y"
    assert first["x-amz-request-payer"] == "requester"
    assert first["x-amz-meta-mtime"] == "1"
    assert first["x-amz-storage-class"] == "DEEP_ARCHIVE"
    assert "x-amz-storage-class" not in second


def refusal(code: str, message: str, **fields: str) -> bytes:
    more = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    return f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>".encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "says", "hint"),
    [
        (403, refusal("AccessDenied", "not authorized to perform: kms:GenerateDataKey on x"), Denied,
         "the right kms:GenerateDataKey is missing", "kms:GenerateDataKey"),
        (403, refusal("AccessDenied", "not authorized to perform: s3:PutObjectTagging on x"), Denied,
         "the right s3:PutObjectTagging", "s3:PutObjectTagging"),
        (400, refusal("ExpiredToken", "The provided token has expired."), Denied, "token has expired", "Renew"),
        (400, refusal("AuthorizationHeaderMalformed", "wrong; expecting 'eu-west-1'", Region="eu-west-1"), TierOffline,
         "another region: it is in eu-west-1", 'region = "eu-west-1"'),
        (507, refusal("InsufficientStorage", "disk full"), TierFull, "no room left", None),
        (403, refusal("QuotaExceeded", "quota"), TierFull, "no room left", None),
        (403, refusal("InvalidObjectState", "archived"), Archived, "must be restored first", "Recall"),
        (400, b"not XML at all", StorageError, "the store answers", None),
    ],
)  # fmt: skip
def test_each_refusal_says_what_is_wrong_and_what_to_do(
    settings: S3Settings,
    recorder: tuple[type[Recorder], str],
    status: int,
    body: bytes,
    kind: type[StorageError],
    says: str,
    hint: str | None,
) -> None:
    store, endpoint = recorder
    store.status, store.body = status, body
    bucket = Bucket(replace(settings, endpoint=endpoint, checksum="crc64nvme", retry_for_s=0.0))
    with pytest.raises(kind, match=says) as failed:
        bucket.put("object", b"x")
    assert type(failed.value) is kind
    assert hint is None or hint in str(failed.value.hint)
    assert len(store.seen) <= 2  # a redirection is followed once


def test_a_wrong_clock_is_told_with_the_difference(settings: S3Settings, recorder: tuple[type[Recorder], str]) -> None:
    store, endpoint = recorder
    store.status, store.body, store.ahead_s = 403, refusal("RequestTimeTooSkewed", "too large"), 1000.0
    bucket = Bucket(replace(settings, endpoint=endpoint, checksum="crc64nvme"))
    with pytest.raises(Denied, match=r"differ by (999|1000|1001) s \(this machine is behind\)"):
        bucket.put("object", b"x")


def test_a_store_without_conditional_writes_is_asked_first(
    settings: S3Settings, recorder: tuple[type[Recorder], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, endpoint = recorder

    def put(self: Recorder) -> None:
        self.status = 501 if "If-None-Match" in self.headers else 200
        self.body = refusal("NotImplemented", "no conditions here") if self.status == 501 else b""
        Recorder.do_PUT(self)

    def head(self: Recorder) -> None:
        self.send_response(200 if "taken" in self.path else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    monkeypatch.setattr(store, "do_PUT", put, raising=False)
    monkeypatch.setattr(store, "do_HEAD", head, raising=False)
    old = Bucket(replace(settings, endpoint=endpoint, checksum="crc64nvme"))
    old.put("free", b"x", is_new=True)
    assert "if-none-match" not in store.seen[-1]
    with pytest.raises(Conflict):
        old.put("taken", b"x", is_new=True)


# -- counts -------------------------------------------------------------------------------------------------------


def test_requests_and_bytes_are_counted(settings: S3Settings) -> None:
    bucket = Bucket(replace(settings, checksum="crc64nvme"))
    bucket.put("object", b"12345")
    bucket.get("object")
    bucket.head("object")
    bucket.head("nothing")
    counts = bucket.meter.snapshot()
    assert counts["put"] == Counts(requests=1, bytes_up=5)
    assert counts["get"] == Counts(requests=1, bytes_down=5)
    assert counts["head"] == Counts(requests=2)
    assert total([counts, counts])["put"] == Counts(requests=2, bytes_up=10)


def test_money_is_estimated_where_prices_are_known() -> None:
    counts = {
        "put": Counts(requests=1500, retries=500),
        "list": Counts(requests=500),
        "get": Counts(requests=4000, bytes_down=2 << 30),
        "delete": Counts(requests=1_000_000),
    }
    prices = Prices(put=0.005, get=0.0004, egress=0.09, retrieval=0.01)
    assert money(counts, prices) == pytest.approx(2 * 0.005 + 4 * 0.0004 + 2 * 0.1)
    assert money(counts, replace(prices, egress=None)) is None
    assert money({"delete": Counts(requests=5)}, Prices()) == 0

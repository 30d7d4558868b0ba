"""INTERIM: replaced soon."""

from __future__ import annotations

import configparser
from dataclasses import dataclass

import boto3
import botocore
import botocore.handlers
from botocore.config import Config

from tierd.errors import Conflict, SourceGone


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    key: str
    size: int
    etag: str
    crc64nvme: object = None
    storage_class: str = "STANDARD"
    restore: object = None
    metadata: object = None


@dataclass(frozen=True, kw_only=True)
class Part:
    number: int
    size: int
    etag: str
    crc64nvme: object = None


def _credentials(s):
    c = configparser.ConfigParser()
    c.read(s.credentials)
    return dict(c["default"])


E = botocore.exceptions.ClientError


class Bucket:
    def __init__(self, s, on_wait=None):
        self.settings = s
        self.on_wait = on_wait
        self.p = f"{s.prefix}/" if s.prefix else ""
        self.n = s.bucket
        import botocore.handlers

        self.c = boto3.client(
            "s3",
            endpoint_url=s.endpoint,
            **_credentials(s),
            region_name="us-east-1",
            config=Config(
                max_pool_connections=16,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"payload_signing_enabled": False, "addressing_style": "path"},
            ),
        )
        self.c.meta.events.unregister("before-call.s3", botocore.handlers.add_expect_header)

    def limit(self, up=None, down=None):
        pass

    def key(self, k):
        return self.p + k

    def put(self, key, data, *, crc64nvme=None, metadata=None, storage_class=None, is_new=False):
        kw = {}
        if crc64nvme:
            kw["ChecksumCRC64NVME"] = crc64nvme
        if metadata:
            kw["Metadata"] = dict(metadata)
        if is_new:
            kw["IfNoneMatch"] = "*"
        try:
            r = self.c.put_object(Bucket=self.n, Key=self.key(key), Body=bytes(data), **kw)
        except E as e:
            if "Precondition" in str(e):
                raise Conflict("exists")
            raise
        return ObjectInfo(key=key, size=len(data), etag=r["ETag"].strip('"'), crc64nvme=crc64nvme)

    def head(self, key):
        try:
            r = self.c.head_object(Bucket=self.n, Key=self.key(key), ChecksumMode="ENABLED")
        except E as e:
            if e.response["Error"]["Code"] in ("404", "NoSuchKey"):
                return None
            raise
        return ObjectInfo(
            key=key,
            size=r["ContentLength"],
            etag=r["ETag"].strip('"'),
            crc64nvme=r.get("ChecksumCRC64NVME"),
            metadata=r["Metadata"],
        )

    def get(self, key, *, start=0, length=None, etag=None):
        kw = {}
        if length is not None:
            kw["Range"] = f"bytes={start}-{start + length - 1}"
        try:
            return self.c.get_object(Bucket=self.n, Key=self.key(key), **kw)["Body"].read()
        except E as e:
            if e.response["Error"]["Code"] in ("404", "NoSuchKey"):
                raise SourceGone(key)
            raise

    def get_into(self, key, buffer, *, start, etag=None):
        buffer[:] = self.get(key, start=start, length=len(buffer), etag=etag)

    def delete(self, keys):
        if keys:
            self.c.delete_objects(Bucket=self.n, Delete={"Objects": [{"Key": self.key(k)} for k in keys]})

    def list(self, prefix):
        for page in self.c.get_paginator("list_objects_v2").paginate(Bucket=self.n, Prefix=self.key(prefix)):
            for o in page.get("Contents", []):
                yield ObjectInfo(key=o["Key"].removeprefix(self.p), size=o["Size"], etag=o["ETag"].strip('"'))

    def begin(self, key, *, metadata=None, storage_class=None):
        return self.c.create_multipart_upload(
            Bucket=self.n,
            Key=self.key(key),
            Metadata=dict(metadata or {}),
            ChecksumAlgorithm="CRC64NVME",
            ChecksumType="FULL_OBJECT",
        )["UploadId"]

    def upload_part(self, key, upload, number, data, *, crc64nvme):
        r = self.c.upload_part(
            Bucket=self.n,
            Key=self.key(key),
            UploadId=upload,
            PartNumber=number,
            Body=bytes(data),
            ChecksumCRC64NVME=crc64nvme,
        )
        return Part(number=number, size=len(data), etag=r["ETag"].strip('"'), crc64nvme=crc64nvme)

    def parts(self, key, upload):
        try:
            r = self.c.list_parts(Bucket=self.n, Key=self.key(key), UploadId=upload)
        except E:
            return None
        return [Part(number=p["PartNumber"], size=p["Size"], etag=p["ETag"].strip('"')) for p in r.get("Parts", [])]

    def complete(self, key, upload, parts, *, crc64nvme, size):
        r = self.c.complete_multipart_upload(
            Bucket=self.n,
            Key=self.key(key),
            UploadId=upload,
            ChecksumCRC64NVME=crc64nvme,
            MultipartUpload={
                "Parts": [{"PartNumber": p.number, "ETag": p.etag, "ChecksumCRC64NVME": p.crc64nvme} for p in parts]
            },
        )
        return ObjectInfo(key=key, size=size, etag=r["ETag"].strip('"'), crc64nvme=crc64nvme)

    def abort(self, key, upload):
        self.c.abort_multipart_upload(Bucket=self.n, Key=self.key(key), UploadId=upload)

    def uploads(self, prefix):
        r = self.c.list_multipart_uploads(Bucket=self.n, Prefix=self.key(prefix))
        for u in r.get("Uploads", []):
            yield u["Key"].removeprefix(self.p), u["UploadId"]

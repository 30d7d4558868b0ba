"""The plain boto3 client of the comparison: 32 threads that share one client.

object_storage_boto3.py up|down ENDPOINT BUCKET DIRECTORY one|many
"""

from __future__ import annotations

import os
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

THREADS = 32
PREFIX = "peer"


def main(direction: str, endpoint: str, bucket: str, at: str, kind: str) -> None:
    root = Path(at)
    client = boto3.client("s3", endpoint_url=endpoint, config=Config(max_pool_connections=THREADS))
    transfer = TransferConfig(  # "classic": the other one ignores the endpoint
        multipart_chunksize=16 << 20, max_concurrency=16, preferred_transfer_client="classic"
    )

    def put(path: Path) -> None:
        key = f"{PREFIX}/{path.relative_to(root)}"
        if kind == "one":
            client.upload_file(str(path), bucket, key, Config=transfer)
        else:
            with path.open("rb") as file:
                client.put_object(Bucket=bucket, Key=key, Body=file)

    def get(key: str) -> None:
        path = root / key.removeprefix(f"{PREFIX}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "one":
            client.download_file(bucket, key, str(path), Config=transfer)
        else:
            body = client.get_object(Bucket=bucket, Key=key)["Body"]
            with path.open("wb") as file:
                shutil.copyfileobj(body, file, 1 << 20)

    with ThreadPoolExecutor(THREADS) as pool:
        begun: list[Future[None]] = []
        if direction == "up":
            for directory, _, names in os.walk(root):
                begun += [pool.submit(put, Path(directory, name)) for name in names]
        else:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{PREFIX}/"):
                begun += [pool.submit(get, found["Key"]) for found in page.get("Contents", [])]
        for each in begun:
            each.result()


if __name__ == "__main__":
    main(*sys.argv[1:])

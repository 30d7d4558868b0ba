"""The identity of a tier in a bucket: how tierd tells its prefix from an empty or another one."""

from __future__ import annotations

import contextlib
import json
import uuid
from datetime import datetime

from tierd.errors import Conflict, SourceGone, TierOffline
from tierd.storage.s3 import layout
from tierd.storage.s3.bucket import Bucket


def establish_identity(bucket: Bucket, name: str, *, known: str | None, now: datetime) -> str:
    """Return the tier's uuid, creating the identity in a prefix that no tierd has used.

    A machine that takes the place of another one finds that one's identity there, and takes it over.

    Raises:
        TierOffline: it carries no identity although one is known, or not the known one, or cannot be reached.
        StorageError: the store refuses to keep one, for instance for a missing right (Denied).
    """
    if known is not None:
        check_identity(bucket, known)
        return known
    fresh = {"uuid": str(uuid.uuid4()), "name": name, "created_at": now.isoformat()}
    found = read_identity(bucket)
    if found is None:
        with contextlib.suppress(Conflict):  # another machine was first
            bucket.put(layout.IDENTITY, json.dumps(fresh, indent=1).encode(), storage_class="STANDARD", is_new=True)
        found = read_identity(bucket)
    if found is None:
        raise TierOffline(f"the identity {layout.IDENTITY} cannot be stored in bucket {bucket.settings.bucket}")
    return found


def check_identity(bucket: Bucket, known: str) -> None:
    """Make sure that the prefix is the store that the catalog knows.

    Raises:
        TierOffline: it is not; nothing may be read from it or written to it.
    """
    found = read_identity(bucket)
    where = f"s3://{bucket.settings.bucket}/{bucket.settings.prefix}"
    if found is None:
        raise TierOffline(
            f"{where} is not the store tierd knows: it carries no identity",
            hint="Is it the right bucket and prefix? Was it emptied?",
        )
    if found != known:
        raise TierOffline(
            f"{where} carries the identity {found}, expected {known}: it is another store",
            hint="Correct bucket and prefix, or give this tier a new name.",
        )


def read_identity(bucket: Bucket) -> str | None:
    """The identity that lies in the prefix; None where no tierd has used it.

    Raises:
        TierOffline: it is damaged.
    """
    try:
        return str(json.loads(bucket.get(layout.IDENTITY))["uuid"])
    except SourceGone:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise TierOffline(f"{layout.IDENTITY} is damaged", hint="Restore it from a version of the bucket.") from error

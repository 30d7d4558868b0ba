"""Readers of the values of S3 tiers. Whatever may hold a key or a password is never shown in a complaint."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from tierd.config.values import duration, path, text, type_name
from tierd.errors import InvalidRequest
from tierd.model.units import parse_size

SYSTEMD = "systemd:"
"""Begins the name of a systemd credential, where the path of a file could be."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_STORAGE_CLASS = re.compile(r"[A-Z][A-Z_]{0,63}")
_CREDENTIAL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
_TAG = re.compile(r"[\w +\-=.:/@]*")
_CURRENCY = re.compile(r"[A-Z]{3}")
_MAX_TAGS, _MAX_TAG_KEY, _MAX_TAG_VALUE = 10, 128, 256
_MAX_MONEY = 1e9
_MAX_PREFIX = 255
"""Bytes. A key has 1,024 at most, and the longest of tierd's own needs 755 besides the prefix."""

_BUCKET_HINT = "Use 3 to 63 lower-case letters, digits, dots and dashes, with a letter or digit at both ends."
_CREDENTIALS_HINT = (
    'Write the path of an AWS credentials file, like "/etc/tierd/s3-credentials", or "systemd:NAME" for a systemd '
    "credential; the keys themselves stay out of this file."
)
_TAGS_HINT = 'Write up to 10 tags, like { team = "vision" }: letters, digits, spaces and + - = . _ : / @.'


def credentials_directory() -> Path:
    """Where systemd puts the credentials of a service: of this one, or of the daemon's where this is no service."""
    return Path(os.environ.get("CREDENTIALS_DIRECTORY") or "/run/credentials/tierd.service")


def bucket(value: object) -> str:
    """The name of a bucket."""
    word = text(value)
    if "://" in word or "/" in word:
        hint = "Write only the bucket's name; what comes after it goes to `prefix`, and the server to `endpoint`."
        raise InvalidRequest(f"{word!r} is more than a bucket's name", hint=hint)
    is_shaped = _BUCKET.fullmatch(word) is not None and ".." not in word and not word.startswith("xn--")
    if not is_shaped or _is_address(word):
        raise InvalidRequest(f"{word!r} cannot be the name of a bucket", hint=_BUCKET_HINT)
    return word


def prefix(value: object) -> str:
    """What every key begins with, without a slash at either end; may be empty."""
    if value == "":
        return ""
    word = text(value).strip("/")
    if any(part in {"", ".", ".."} for part in word.split("/")) and word:
        # Several servers refuse such keys, and clients that make files of them lead elsewhere.
        hint = 'Write names with single slashes between them, like "backup/gpu01".'
        raise InvalidRequest(f"{word!r} has a part that is empty, . or ..", hint=hint)
    if len(word.encode()) > _MAX_PREFIX:
        raise InvalidRequest(
            f"has {len(word.encode())} bytes", hint=f"Write {_MAX_PREFIX} bytes or less: the names below it need room."
        )
    return word


def endpoint(value: object) -> str:
    """URL of the service: scheme, host and port."""
    example = '"https://s3.example.com:9000"'
    url = _url(value, f"Write scheme, host and port, like {example}; for AWS leave endpoint out.")
    if url.path.strip("/") or url.query or url.fragment:
        hint = f"Write only scheme, host and port, like {example}; the bucket goes to `bucket`."
        raise InvalidRequest("has more than scheme, host and port", hint=hint)
    return f"{url.scheme}://{url.netloc}"


def proxy(value: object) -> str:
    """URL of an HTTP proxy."""
    url = _url(value, 'Write scheme, host and port, like "http://proxy.example.com:3128".')
    return f"{url.scheme}://{url.netloc}"


def _url(value: object, hint: str) -> SplitResult:
    written = text(value)
    try:
        url = urlsplit(written)
        is_http = url.scheme in {"http", "https"} and bool(url.hostname) and " " not in written
        is_http = is_http and (url.port is None or url.port > 0)
    except ValueError:  # a port or an IPv6 address that is none
        is_http = False
        url = SplitResult("", "", "", "", "")
    if "@" in written:
        raise InvalidRequest(
            "holds a user name or password (it is not shown)",
            hint="Write it without: keys go to `credentials`, a proxy's password to HTTPS_PROXY in the daemon's "
            "environment, with `proxy` left out.",
        )
    if not is_http:
        raise InvalidRequest(f"{written!r} is not an http or https URL", hint=hint)
    return url


def is_address(url: str) -> bool:
    """Whether the host of a URL is an IP address and no name."""
    return _is_address(urlsplit(url).hostname or "")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def region(value: object) -> str:
    """The name of a region."""
    word = text(value)
    if _REGION.fullmatch(word) is None:
        raise InvalidRequest(f"{word!r} cannot be a region", hint='Write its name, like "eu-central-1".')
    return word


def credentials(value: object) -> Path:
    """An AWS credentials file, or that of a systemd credential."""
    return file_or_credential(value, _CREDENTIALS_HINT)


def file_or_credential(value: object, hint_of_all: str) -> Path:
    """A file with a secret, or that of a systemd credential."""
    if not isinstance(value, str):
        raise InvalidRequest(f"is {type_name(value)}, not text", hint=hint_of_all)
    if value.startswith(SYSTEMD):
        name = value.removeprefix(SYSTEMD)
        if _CREDENTIAL.fullmatch(name) is None:
            hint = 'Write what LoadCredential= in the service calls it, like "systemd:s3".'
            raise InvalidRequest(f"has no name of a credential behind {SYSTEMD}", hint=hint)
        return credentials_directory() / name
    try:
        return path(value)
    except InvalidRequest:
        # It may be the key itself.
        raise InvalidRequest("is no full path (it is not shown: it may be a key)", hint=hint_of_all) from None


def kms_key(value: object) -> str:
    """Id, ARN or alias of a key; no secret."""
    word = text(value)
    if " " in word:
        raise InvalidRequest(f"{word!r} cannot be a key's id", hint='Write its id, ARN or "alias/NAME".')
    return word


def storage_class(value: object) -> str:
    """A storage class; stores have classes of their own, so any word in capitals will do."""
    word = text(value)
    if _STORAGE_CLASS.fullmatch(word) is None:
        hint = 'Write it in capitals, like "STANDARD", "STANDARD_IA", "GLACIER_IR", "GLACIER" or "DEEP_ARCHIVE".'
        raise InvalidRequest(f"{word!r} cannot be a storage class", hint=hint)
    return word


def whole_days(value: object) -> timedelta:
    """A duration of whole days: S3 counts nothing shorter."""
    length = duration(value)
    if length % timedelta(days=1):
        raise InvalidRequest("is not a number of whole days", hint='S3 counts in days: write "7d".')
    return length


def tags(value: object) -> dict[str, str]:
    """Tags of objects, by key."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"is {type_name(value)}, not a table", hint=_TAGS_HINT)
    if len(value) > _MAX_TAGS:
        raise InvalidRequest(f"has {len(value)} tags", hint="S3 takes 10 for an object: remove some.")
    for key, content in value.items():
        is_key = 0 < len(key) <= _MAX_TAG_KEY and _TAG.fullmatch(key) is not None and not key.startswith("aws:")
        if not is_key:
            raise InvalidRequest(f"{key!r} cannot be the key of a tag", hint=_TAGS_HINT)
        if not isinstance(content, str) or len(content) > _MAX_TAG_VALUE or _TAG.fullmatch(content) is None:
            raise InvalidRequest(f"the value of {key!r} cannot be that of a tag", hint=_TAGS_HINT)
    return dict(value)


def size_within(least: str, most: str) -> Callable[[object], int]:
    """A reader for a size within bounds."""

    def read(value: object) -> int:
        hint = f'Write a size from "{least}" to "{most}".'
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InvalidRequest(f"is {type_name(value)}, not a quantity", hint=hint)
        size_bytes = parse_size(value)
        if not parse_size(least) <= size_bytes <= parse_size(most):
            raise InvalidRequest(f"{value!r} is out of range", hint=hint)
        return size_bytes

    return read


def currency(value: object) -> str:
    """The three letters of a currency."""
    word = text(value)
    if _CURRENCY.fullmatch(word) is None:
        raise InvalidRequest(f"{word!r} is not a currency", hint='Write its three letters, like "USD".')
    return word


def money(value: object) -> float:
    """An amount of money, zero included."""
    hint = "Write a number without quotes and currency, like 0.005."
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"is {type_name(value)}, not an amount", hint=hint)
    if not 0 <= value <= _MAX_MONEY:  # neither is a NaN
        raise InvalidRequest(f"{value} is not an amount", hint=hint)
    return float(value)

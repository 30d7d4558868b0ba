"""Readers of the values of webhooks, and of their secrets. Neither a URL nor a secret is shown in a complaint."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from urllib.parse import urlsplit

from tierd.config.s3_values import file_or_credential
from tierd.config.values import duration, patterns, type_name
from tierd.errors import ConfigError, InvalidRequest

PREFIX = "whsec_"
_LEAST_BYTES, _MOST_BYTES = 24, 64
"""Of a secret, as Standard Webhooks have it."""
_MOST_SECRETS = 4
_MOST_FILE_BYTES = 4096
_LONGEST_TIMEOUT_S = 60

MAKE_SECRET = 'echo "whsec_$(openssl rand -base64 32)"'
SECRET_HINT = (
    "Put it into a file that only the daemon can read, and name that: "
    '`secret_file = "/etc/tierd/webhook-secret"`, or "systemd:NAME" for a systemd credential.'
)
_FILE_HINT = (
    'Write the path of a file with the secret, like "/etc/tierd/webhook-secret", or "systemd:NAME" for a systemd '
    f"credential; the secret itself stays out of this file. `{MAKE_SECRET}` makes one."
)
_CONTENT_HINT = f"Write whsec_ and the base64 of {_LEAST_BYTES} to {_MOST_BYTES} random bytes: `{MAKE_SECRET}`."
_URL_HINT = 'Write an http or https URL, like "https://alerts.example.com/tierd".'


def url(value: object) -> str:
    """An http or https URL; never shown, because of some services the path is the secret."""
    if not isinstance(value, str):
        raise InvalidRequest(f"is {type_name(value)}, not text", hint=_URL_HINT)
    try:
        parts = urlsplit(value)
        is_http = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port or an IPv6 address that is none
        is_http = False
        parts = urlsplit("")
    if not is_http or not value.isprintable() or " " in value:
        raise InvalidRequest("is not an http or https URL (it is not shown: it may hold a secret)", hint=_URL_HINT)
    if "@" in parts.netloc:
        hint = "Write it without: receivers know the request by its signature."
        raise InvalidRequest("holds a user name or password (it is not shown)", hint=hint)
    if parts.fragment:
        raise InvalidRequest("has a # part, which is never sent", hint="Write it without.")
    return value


def secret_file(value: object) -> Path:
    """The file with the secret, or that of a systemd credential."""
    return file_or_credential(value, _FILE_HINT)


def events(value: object) -> tuple[str, ...]:
    """Shell patterns of kinds of events; at least one."""
    hint = 'Write a list of kinds or shell patterns of them, like ["transfer.failed", "tier.*"].'
    found = patterns(value)
    if not found:
        raise InvalidRequest("is an empty list: nothing would be sent", hint=hint)
    for pattern in found:
        if "." not in pattern and "*" not in pattern:
            raise InvalidRequest(f"{pattern!r} is no kind of event", hint=hint)
    return found


def timeout(value: object) -> float:
    """How long one request may take."""
    seconds = duration(value).total_seconds()
    if seconds > _LONGEST_TIMEOUT_S:
        hint = f'Write at most "{_LONGEST_TIMEOUT_S}s": receivers should answer at once and work afterwards.'
        raise InvalidRequest("is too long", hint=hint)
    return seconds


def read_secrets(path: Path) -> tuple[bytes, ...]:
    """The keys in a file, the current one first; others are signed with as well, while they are being replaced.

    Raises:
        ConfigError: it cannot be read, or what it has is no secret.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_FILE_BYTES + 1)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        hint = "Run tierd (and this check) as a user that may read it."
        if isinstance(error, FileNotFoundError):
            hint = f"Create it, readable by the daemon alone: `(umask 077; {MAKE_SECRET} > {path})`."
        raise ConfigError(f"the secret file {path} cannot be read: {why}", hint=hint) from None
    lines = [line.strip() for line in content.decode("ascii", "replace").splitlines() if line.strip()]
    if not lines or len(lines) > _MOST_SECRETS or len(content) > _MOST_FILE_BYTES:
        what = "is empty" if not lines else "has more than four lines"
        raise ConfigError(f"the secret file {path} {what}", hint=_CONTENT_HINT)
    return tuple(_key(line, path) for line in lines)


def _key(line: str, path: Path) -> bytes:
    try:
        key = base64.b64decode(line.removeprefix(PREFIX), validate=True) if line.startswith(PREFIX) else b""
    except (binascii.Error, ValueError):
        key = b""
    if not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        # It may be a secret of another form.
        raise ConfigError(f"the secret file {path} has a line that is no secret (it is not shown)", hint=_CONTENT_HINT)
    return key

"""Connecting to a store: the botocore client as tierd needs it, and where its credentials come from.

boto3 is not needed for that, and takes longer to load. Nor would its bulk transfer clients be of use: s3transfer
cannot resume, and the one of the AWS common runtime ignores `endpoint_url` and would send the data to AWS.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
from contextlib import suppress
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import botocore.handlers
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.loaders import Loader, create_loader

from tierd.errors import Denied, StorageError
from tierd.model.s3 import S3Settings
from tierd.storage.s3.wire import Wait, make_patient

_CONNECT_S = 10.0
_ANY_REGION = "us-east-1"
"""What stores that know no regions expect to be signed for."""


def connect(settings: S3Settings, wait: Wait) -> Any:
    """A client for a tier's store; sends nothing yet. It may be used by several threads.

    Args:
        wait: called at least every 0.2 s while a request is under way; may raise to give it up.

    Raises:
        Denied: no credentials, or not readable. StorageError: the settings make no client.
    """
    try:
        secrets = _read_credentials(settings)
        session = _session(None if secrets else settings.profile)
        region = settings.region or session.get_config_variable("region") or _ANY_REGION
        chosen: dict[str, Any] = {
            "endpoint_url": settings.endpoint,
            "region_name": region,
            "verify": str(settings.ca_bundle) if settings.ca_bundle else None,
            "config": _config(settings),
            **secrets,
        }
        make: Any = session.create_client  # its types are an overload for each of 400 services
        client = make("s3", **chosen)
    except BotoCoreError as error:
        raise StorageError(
            f"cannot prepare to talk to {place(settings)}: {error}",
            hint="Correct the tier's endpoint, region and profile.",
        ) from error
    # It would cost a round trip per request, for bodies that tierd has in memory anyway.
    client.meta.events.unregister("before-call.s3", botocore.handlers.add_expect_header)
    client.meta.events.register("before-call.s3.DeleteObjects", _add_md5)
    make_patient(client, wait, settings.timeout_s)
    return client


def preload() -> None:
    """Load now what a client needs, so that the next one is made at once."""
    nobody: dict[str, Any] = {"aws_access_key_id": "-", "aws_secret_access_key": "-"}  # else it would look for some
    with suppress(BotoCoreError):  # whoever needs a client is told
        _session(None).create_client("s3", region_name=_ANY_REGION, **nobody)


def _session(profile: str | None) -> botocore.session.Session:
    session = botocore.session.Session(profile=profile)
    session.register_component("data_loader", _models(session.get_config_variable("data_path")))
    return session


@cache
def _models(search: str | None) -> Loader:
    """What botocore knows of the service, from large files: read once for all clients."""
    return create_loader(search)


def place(settings: S3Settings) -> str:
    """The bucket and where it is, for messages: without what an endpoint's URL may hold of a password."""
    if settings.endpoint is None:
        where = f"AWS {settings.region}" if settings.region else "AWS"
    else:
        url = urlsplit(settings.endpoint)
        where = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
    return f"bucket {settings.bucket} at {where}"


def _config(settings: S3Settings) -> Config:
    chosen: dict[str, Any] = {
        "connect_timeout": min(_CONNECT_S, settings.timeout_s),
        "read_timeout": settings.timeout_s,
        "retries": {"mode": "standard", "total_max_attempts": 1},  # tierd repeats by itself: progress, stop, deadline
        "max_pool_connections": settings.connections + 2,
        "tcp_keepalive": True,
        # The checksums are tierd's own, computed once: nothing is hashed again, and no body is sent in chunks.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "s3": {"addressing_style": settings.addressing, "payload_signing_enabled": False},
        "user_agent_appid": "tierd",
    }
    if settings.proxy is not None:
        chosen["proxies"] = {"http": settings.proxy, "https": settings.proxy}
    return Config(**chosen)


def _read_credentials(settings: S3Settings) -> dict[str, str]:
    """From the configured file alone; nothing where none is configured: then botocore looks in the usual places.

    Raises:
        Denied
    """
    path = settings.credentials
    if path is None:
        return {}
    parser = configparser.RawConfigParser()
    name = settings.profile or "default"
    hint = f"It is an AWS credentials file: [{name}], aws_access_key_id = …, aws_secret_access_key = …"
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
        found = parser[name]
        secrets = {key: found[key] for key in ("aws_access_key_id", "aws_secret_access_key")}
    except OSError as error:
        raise Denied(f"cannot read the credentials file {path}: {error.strerror}", hint=hint) from error
    except KeyError as error:
        raise Denied(f"the credentials file {path} has no {error.args[0]!r}", hint=hint) from error
    except (configparser.Error, UnicodeDecodeError):  # their text may quote a secret
        raise Denied(f"the credentials file {path} cannot be understood", hint=hint) from None
    if "aws_session_token" in found:
        secrets["aws_session_token"] = found["aws_session_token"]
    return secrets


def _add_md5(params: dict[str, Any], **_: object) -> None:
    """Older stores refuse to delete several objects by a request without this header."""
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()

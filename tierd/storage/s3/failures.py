"""What a failed request means: whether to repeat it, and the error that says to a person what is wrong."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from socket import gaierror
from types import MappingProxyType
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)

from tierd.errors import (
    Archived,
    Conflict,
    Corrupt,
    Denied,
    SourceChanged,
    SourceGone,
    StorageError,
    TierdError,
    TierFull,
    TierOffline,
    Unsupported,
    UploadGone,
)
from tierd.storage.s3.wire import Broken

FAILURES = (BotoCoreError, ClientError, Broken, http.client.HTTPException, OSError)
"""All that a request may raise, besides what a caller raises to stop it."""

_NETWORK = (
    HTTPClientError,
    EndpointConnectionError,
    ConnectTimeoutError,
    ProxyConnectionError,
    Broken,
    http.client.HTTPException,
    OSError,
)
_TRANSIENT = frozenset(
    {"RequestTimeout", "RequestTimeTooShort", "IncompleteBody", "ConditionalRequestConflict", "OperationAborted"}
)
_OVERLOAD = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable"})
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
DAMAGED = frozenset({"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"})
_FULL = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"})
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_WRONG_REGION = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
)
_SKEW_S = 120.0


@dataclass(frozen=True)
class Meaning:
    """What an operation is called, and the right that it needs."""

    doing: str
    right: str


OPERATIONS: Mapping[str, Meaning] = MappingProxyType(
    {
        "put": Meaning("store", "s3:PutObject"),
        "begin": Meaning("begin to upload", "s3:PutObject"),
        "part": Meaning("upload a part of", "s3:PutObject"),
        "complete": Meaning("complete the upload of", "s3:PutObject"),
        "abort": Meaning("give up the upload of", "s3:AbortMultipartUpload"),
        "parts": Meaning("list the uploaded parts of", "s3:ListMultipartUploadParts"),
        "uploads": Meaning("list the uploads below", "s3:ListBucketMultipartUploads"),
        "get": Meaning("read", "s3:GetObject"),
        "head": Meaning("look at", "s3:GetObject"),
        "list": Meaning("list the objects below", "s3:ListBucket"),
        "delete": Meaning("delete", "s3:DeleteObject"),
        "restore": Meaning("restore", "s3:RestoreObject"),
    }
)


@dataclass(frozen=True)
class Subject:
    """What was asked for. `place`: bucket and store; `key`: in full."""

    operation: str
    key: str
    place: str

    def __str__(self) -> str:
        return f"cannot {OPERATIONS[self.operation].doing} {self.key!r} in {self.place}"


def code_of(error: BaseException) -> str:
    """The store's error code; "" when it is not the store that failed."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def status_of(error: BaseException) -> int:
    """The HTTP status; 0 when there was no answer."""
    return int(_metadata(error).get("HTTPStatusCode", 0))


def is_overload(error: BaseException) -> bool:
    """Whether fewer requests at a time may help."""
    return code_of(error) in _OVERLOAD or status_of(error) in (429, 503) or _is_timeout(error)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, ClientError):
        if code_of(error) in _FULL or code_of(error) in _EXPIRED:
            return False
        return code_of(error) in _TRANSIENT | _OVERLOAD or status_of(error) in _TRANSIENT_STATUS
    if isinstance(error, SSLError):
        return "CERTIFICATE" not in str(error).upper() and "WRONG_VERSION" not in str(error).upper()
    if _cause(error, gaierror) is not None:
        return "temporary" in str(error).lower()
    return isinstance(error, _NETWORK)


def translate(error: Exception, subject: Subject) -> TierdError:
    """The error to raise instead."""
    if isinstance(error, ClientError):
        return _refused(error, subject)
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)):
        return Denied(
            f"{subject}: there are no credentials ({_text(error)})",
            hint="Name a credentials file for the tier (`credentials`), or a `profile` of the AWS configuration.",
        )
    if isinstance(error, ProxyConnectionError):
        return TierOffline(f"{subject}: the proxy does not answer", hint="Check the tier's `proxy`.")
    if isinstance(error, SSLError):
        return TierOffline(
            f"{subject}: no secure connection ({_text(error)})",
            hint="Name the store's CA in `ca_bundle`, or correct the `endpoint` (http or https, host name, port).",
        )
    if _cause(error, gaierror) is not None:
        return TierOffline(
            f"{subject}: the name of the store does not resolve", hint="Check the tier's `endpoint` and the DNS."
        )
    if isinstance(error, BotoCoreError) and not isinstance(error, (HTTPClientError, EndpointConnectionError)):
        return StorageError(f"{subject}: {_text(error)}", hint="Correct the tier's settings.")
    what = "it does not answer in time" if _is_timeout(error) else f"it cannot be reached ({_text(error)})"
    return TierOffline(f"{subject}: {what}", hint="Is the store running, and the network up? It is tried again later.")


def _refused(error: ClientError, subject: Subject) -> TierdError:
    code, status = code_of(error), status_of(error)
    found: dict[str, Any] = dict(error.response.get("Error", {}))
    said = str(found.get("Message") or "").strip().rstrip(".")
    text = f"{code}: {said}" if said and said != code else code or f"HTTP status {status}"
    for applies, make in _RULES:
        if applies(code, status, subject.operation):
            return make(error, subject, text)
    return StorageError(f"{subject}: the store answers {text}")


def _denied(error: ClientError, subject: Subject, text: str) -> TierdError:
    skew = _skew(error)
    if skew is not None:
        return _skewed(error, subject, text)
    named = re.search(r"(?:perform:?|action) ['\"]?([a-z0-9-]+:[A-Za-z]+)", text)
    right = named[1] if named else OPERATIONS[subject.operation].right
    if "kms" in text.lower() and not named:
        right = "kms:GenerateDataKey" if OPERATIONS[subject.operation].right == "s3:PutObject" else "kms:Decrypt"
    return Denied(
        f"{subject}: the right {right} is missing ({text})",
        hint=f"Grant {right} on this bucket to tierd's access key.",
    )


def _skewed(error: ClientError, subject: Subject, text: str) -> TierdError:
    skew = _skew(error)
    how = "differ too much" if skew is None else f"differ by {abs(skew):.0f} s (this machine is {_side(skew)})"
    return Denied(f"{subject}: the clocks of this machine and of the store {how}", hint="Set the clock: check NTP.")


def _side(skew: float) -> str:
    return "ahead" if skew > 0 else "behind"


def _skew(error: ClientError) -> float | None:
    """Seconds by which this machine's clock is ahead of the store's; None when it is about right or not known."""
    try:
        theirs = parsedate_to_datetime(str(_metadata(error).get("HTTPHeaders", {})["date"]))
    except (KeyError, ValueError, TypeError):
        return None
    skew = (datetime.now(UTC) - theirs.astimezone(UTC)).total_seconds()
    return skew if abs(skew) > _SKEW_S else None


def _wrong_region(error: ClientError, subject: Subject, text: str) -> TierdError:
    headers = _metadata(error).get("HTTPHeaders", {})
    region = error.response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
    right = f": it is in {region}" if region else f" ({text})"
    hint = f'Set region = "{region}".' if region else "Correct the tier's `region`, or its `endpoint`."
    return TierOffline(f"{subject}: the bucket is in another region{right}", hint=hint)


def _as(
    kind: type[TierdError], what: str, hint: str | None = None
) -> Callable[[ClientError, Subject, str], TierdError]:
    return lambda _, subject, text: kind(f"{subject}: {what.format(text=text)}", hint=hint)


_Rule = tuple[Callable[[str, int, str], bool], Callable[[ClientError, Subject, str], TierdError]]


def _codes(*codes: str) -> Callable[[str, int, str], bool]:
    return lambda code, status, operation: code in codes


_RULES: tuple[_Rule, ...] = (
    (_codes("RequestTimeTooSkewed"), _skewed),
    (
        _codes("InvalidAccessKeyId", "InvalidClientTokenId"),
        _as(Denied, "the store does not know the access key", "Check the tier's credentials."),
    ),
    (
        _codes("SignatureDoesNotMatch"),
        lambda error, subject, text: (
            _skewed(error, subject, text)
            if _skew(error) is not None
            else Denied(
                f"{subject}: the secret key is not the one that belongs to the access key",
                hint="Check the tier's credentials; between here and the store nothing may rewrite requests.",
            )
        ),
    ),
    (_codes(*_EXPIRED), _as(Denied, "the session token has expired", "Renew the tier's credentials.")),
    (_codes("InvalidToken"), _as(Denied, "the session token is not valid", "Renew the tier's credentials.")),
    (_codes(*_WRONG_REGION), _wrong_region),
    (
        _codes("NoSuchBucket", "InvalidBucketName"),
        _as(TierOffline, "the bucket does not exist", "Create it, or correct the tier's `bucket` and `endpoint`."),
    ),
    (_codes("NoSuchUpload"), _as(UploadGone, "the store does not know this upload (any more)", "It begins anew.")),
    (
        _codes("InvalidObjectState"),
        _as(Archived, "it is archived and must be restored first", "Recall the snapshot: that restores it."),
    ),
    (lambda code, status, _: code in _FULL or status == 507, _as(TierFull, "the store has no room left ({text})")),
    (_codes(*DAMAGED), _as(Corrupt, "what arrived is not what was sent ({text})", "Check memory and network.")),
    (
        lambda _, status, operation: status == 412 and operation in ("get", "head"),
        _as(SourceChanged, "another object was put in its place"),
    ),
    (_codes("RestoreAlreadyInProgress"), _as(Conflict, "it is being restored already")),
    (lambda _, status, __: status == 412, _as(Conflict, "an object of this name exists already")),
    (_codes("InvalidRange"), _as(SourceChanged, "it is shorter than it was")),
    (
        lambda code, status, _: code in ("NotImplemented", "MethodNotAllowed") or status in (405, 501),
        _as(Unsupported, "the store cannot do that ({text})"),
    ),
    (lambda _, status, __: status in (401, 403), _denied),
    (lambda code, status, _: status == 404 or code == "NoSuchKey", _as(SourceGone, "there is no such object")),
)


def _metadata(error: BaseException) -> dict[str, Any]:
    return dict(error.response.get("ResponseMetadata", {})) if isinstance(error, ClientError) else {}


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, (ReadTimeoutError, ConnectTimeoutError)) or isinstance(error.__cause__, TimeoutError)


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """An error of this kind among those that led to this one."""
    for _ in range(10):
        if error is None or isinstance(error, kind):
            return error
        error = error.__cause__ or error.__context__
    return None


def _text(error: BaseException) -> str:
    """What the innermost layer says, without the URL and the addresses of objects that others put around it."""
    inner: BaseException = error
    while (below := inner.__cause__ or inner.__context__) is not None:
        inner = below
    text = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner)
    return text or type(inner).__name__

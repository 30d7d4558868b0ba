"""The exception tree, and the one table of what each class means outside (HTTP status, code, exit code).

TierdError
├── ConfigError               the configuration has faults (all of them are listed)
├── InvalidRequest            a request or argument that cannot be understood
├── NotFound                  no dataset, snapshot, transfer, lease or tier of that name
├── Conflict                  what was asked for contradicts the present state
│   ├── Held                  a lease or a pin forbids it
│   ├── NotSettled            the snapshot is still being written
│   ├── RestoreNeeded         the only copy is archived: reading it takes hours and money, and was not asked for
│   └── IllegalTransition     the transfer is no longer in the state the caller believed
├── Refused                   a warm that cannot be granted (no room, no copy)
├── Unauthorized              no token or a wrong one
├── Forbidden                 the caller's role does not allow it
├── DaemonUnreachable         no daemon answers at the configured address
├── CatalogError              the database cannot be used
│   ├── CatalogLocked         another daemon owns it
│   ├── CatalogTooNew         it was written by a newer tierd
│   └── CatalogCorrupt        it is damaged
├── StorageError              a tier cannot do what was asked
│   ├── TierOffline           its root is not the store the catalog knows (disk missing, not mounted)
│   ├── TierFull              no bytes or no inodes left
│   ├── Corrupt               bytes that should be equal differ
│   ├── Archived              an object of an archive class that was not restored, or not for long enough
│   ├── UploadGone            a multipart upload that the store does not know (any more)
│   ├── Denied                the operating system refuses access
│   └── Unsupported           an entry or attribute that the destination cannot keep
└── TransferError             one attempt of a transfer cannot go on
    ├── SourceChanged         the tree was changed while it was read; nothing is lost, try again later
    ├── SourceBusy            a process holds files of the tree open
    ├── SourceGone            the tree is not where it was
    └── Interrupted           asked to stop (cancel, pause, shutdown)
"""

from __future__ import annotations

from typing import ClassVar


class TierdError(Exception):
    """Something in tierd failed.

    Args:
        message: what failed, lower case, naming the thing; the class docstring when empty.
        hint: a sentence that says what to do next, for the person reading it.
    """

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    is_permanent: ClassVar[bool] = False
    """True when trying the same transfer again cannot help."""

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        doc = (type(self).__doc__ or "").partition("\n")[0].rstrip(".")
        self.message = message or doc[:1].lower() + doc[1:]
        self.hint = hint
        super().__init__(self.message)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(cls: type[TierdError], message: str, hint: str | None) -> TierdError:
    return cls(message, hint=hint)


class ConfigError(TierdError):
    """The configuration has faults."""

    code, http_status, exit_code = "config_invalid", 500, 2


class InvalidRequest(TierdError):
    """The request cannot be understood."""

    code, http_status, exit_code = "invalid_request", 422, 2


class NotFound(TierdError):
    """There is nothing of that name."""

    code, http_status, exit_code = "not_found", 404, 4


class Conflict(TierdError):
    """The present state does not allow it."""

    code, http_status, exit_code = "conflict", 409, 5


class Held(Conflict):
    """A lease or a pin holds the snapshot."""

    code = "held"


class NotSettled(Conflict):
    """The snapshot is still being written."""

    code = "not_settled"


class RestoreNeeded(Conflict):
    """The copy is archived and has to be restored first."""

    code = "restore_needed"


class IllegalTransition(Conflict):
    """The transfer is no longer in the expected state."""

    code = "illegal_transition"


class Refused(TierdError):
    """The warm cannot be granted."""

    code, http_status, exit_code = "refused", 507, 6


class TooLate(Refused):
    """It cannot be there by then."""

    code, http_status = "too_late", 409


class Unauthorized(TierdError):
    """A valid token is needed."""

    code, http_status, exit_code = "unauthorized", 401, 7


class Forbidden(TierdError):
    """The caller's role does not allow this."""

    code, http_status, exit_code = "forbidden", 403, 7


class DaemonUnreachable(TierdError):
    """No tierd daemon answers."""

    code, http_status, exit_code = "daemon_unreachable", 503, 3


class CatalogError(TierdError):
    """The catalog database cannot be used."""

    code, http_status, exit_code = "catalog_error", 500, 8


class CatalogLocked(CatalogError):
    """Another daemon owns the catalog database."""

    code, http_status = "catalog_locked", 503


class CatalogTooNew(CatalogError):
    """The catalog database was written by a newer tierd."""

    code = "catalog_too_new"


class CatalogCorrupt(CatalogError):
    """The catalog database is damaged."""

    code = "catalog_corrupt"


class StorageError(TierdError):
    """A tier cannot do what was asked."""

    code, http_status, exit_code = "storage_error", 502, 9


class TierOffline(StorageError):
    """The tier's root is not the store the catalog knows."""

    code, http_status = "tier_offline", 503


class TierFull(StorageError):
    """The tier has no room left."""

    code, http_status = "tier_full", 507


class Corrupt(StorageError):
    """Bytes that should be equal differ."""

    code = "corrupt"


class UploadGone(StorageError):
    """The store does not know the upload any more."""

    code = "upload_gone"


class Denied(StorageError):
    """The operating system refuses access."""

    code = "denied"


class Archived(StorageError):
    """The object is archived and must be restored first."""

    code, http_status = "archived", 409


class Unsupported(StorageError):
    """The destination cannot keep an entry or attribute of the snapshot."""

    code, is_permanent = "unsupported", True


class TransferError(TierdError):
    """This attempt of the transfer cannot go on."""

    code, http_status, exit_code = "transfer_error", 409, 5


class SourceChanged(TransferError):
    """The snapshot was changed while it was read."""

    code = "source_changed"


class Superseded(SourceChanged):
    """Another copy was written to while the path led there: that one is the snapshot now."""

    code, is_permanent = "superseded", True


class SourceBusy(TransferError):
    """A process holds files of the snapshot open."""

    code = "source_busy"


class SourceGone(TransferError):
    """The snapshot is not where it was."""

    code, is_permanent = "source_gone", True


class Interrupted(TransferError):
    """The transfer was asked to stop."""

    code = "interrupted"


def by_code(code: str) -> type[TierdError]:
    """The class with this stable code; TierdError when none has it (used to rebuild errors from JSON)."""
    found: dict[str, type[TierdError]] = {}
    todo: list[type[TierdError]] = [TierdError]
    while todo:
        cls = todo.pop()
        found[cls.code] = cls
        todo.extend(cls.__subclasses__())
    return found.get(code, TierdError)

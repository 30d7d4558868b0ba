"""What `tierd doctor` looks at on this machine. Each look tells what it found, and what to do where it is not fine."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from tierd.errors import ConfigError, TierdError
from tierd.model.units import format_percent, format_size

if TYPE_CHECKING:
    from tierd.client import Tierd
    from tierd.config import Config
    from tierd.model.tier import Tier

_NEEDED = {
    "CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_DAC_READ_SEARCH": 2, "CAP_FOWNER": 3, "CAP_FSETID": 4,
    "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_MKNOD": 27, "CAP_LEASE": 28, "CAP_SETFCAP": 31,
}  # fmt: skip
"""As the unit file has them; numbers from linux/capability.h."""
_OLDEST_KERNEL = (5, 6)
_FEW_INODES, _FEW_BYTES = 0.05, 0.03
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "ceph", "9p", "glusterfs"})
_UNSYNCHRONISED = 5
"""What adjtimex(2) returns while the clock is not synchronised (TIME_ERROR)."""


class Verdict(StrEnum):
    FINE = "fine"
    NOTE = "note"
    """It works; something is worth knowing."""
    BAD = "bad"


@dataclass(frozen=True, kw_only=True)
class Look:
    """One thing that was looked at. `advice`: what to do, empty where all is well."""

    what: str
    verdict: Verdict
    found: str
    advice: str = ""


def fine(what: str, found: str) -> Look:
    return Look(what=what, verdict=Verdict.FINE, found=found)


def note(what: str, found: str, advice: str) -> Look:
    return Look(what=what, verdict=Verdict.NOTE, found=found, advice=advice)


def bad(what: str, found: str, advice: str) -> Look:
    return Look(what=what, verdict=Verdict.BAD, found=found, advice=advice)


def machine() -> Iterator[Look]:
    """The kernel, what this process may do, and the clock."""
    release = platform.release()
    numbers = tuple(int(n) for n in re.findall(r"\d+", release)[:2])
    if numbers >= _OLDEST_KERNEL:
        yield fine("kernel", f"Linux {release}")
    else:
        yield bad("kernel", f"Linux {release}", "Use Linux 5.6 or newer: tierd opens files by openat2(2).")
    yield from _capabilities()
    yield _fanotify()
    yield _pressure()
    yield _clock()
    squeue = shutil.which("squeue")
    yield fine(
        "Slurm", f"jobs are asked for by {squeue}" if squeue else "no squeue here; leases of jobs keep to their time"
    )


def _capabilities() -> Iterator[Look]:
    mask = 0
    with contextlib.suppress(OSError, ValueError, TypeError):
        text = Path("/proc/self/status").read_text()
        mask = int(re.search(r"^CapEff:\s*([0-9a-f]+)", text, re.MULTILINE)[1], 16)  # type: ignore[index]
    missing = [name for name, number in _NEEDED.items() if not mask >> number & 1]
    if not missing:
        yield fine("rights", "all capabilities that keeping owners, ACLs and attributes of others takes")
    else:
        advice = "Run this as root, as the daemon does; without these tierd moves only trees that its own user owns."
        yield note("rights", f"missing here: {', '.join(missing)}", advice)


def _fanotify() -> Look:
    from tierd.fs.fanotify import check_rights

    try:
        check_rights()
    except OSError as e:
        advice = "Grant CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH (the unit file does), on Linux 5.9 or newer."
        return note("use tracking", f"fanotify cannot be used ({e.strerror}); inotify takes its place", advice)
    return fine("use tracking", "fanotify can be used")


def _pressure() -> Look:
    if Path("/proc/pressure/io").exists():
        return fine("disk pressure", "the kernel tells how busy the disks are (PSI)")
    return note("disk pressure", "the kernel does not tell (no PSI)", "Boot with psi=1, if copies shall yield to jobs.")


def _clock() -> Look:
    class Timex(ctypes.Structure):
        _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_char * 512))

    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(Timex()))
    if state == _UNSYNCHRONISED:
        advice = "Run chrony or systemd-timesyncd: ages, schedules and S3 signatures go by the clock."
        return note("clock", "is not synchronised", advice)
    return fine("clock", "is synchronised") if state >= 0 else note("clock", "nobody can tell", "")


def tiers(config: Config) -> Iterator[Look]:
    """Each tier on a file system of this machine: there, writable, able, and not nearly full."""
    for tier in config.tiers:
        if tier.s3 is None:
            yield from _posix(tier)


def _posix(tier: Tier) -> Iterator[Look]:
    what = f"tier {tier.name}"
    try:
        st = os.statvfs(tier.root)
    except OSError as e:
        yield bad(what, f"{tier.root} cannot be looked at ({e.strerror})", "Mount the disk, or correct `root`.")
        return
    kind = _kind(tier.root)
    if kind in _NETWORK:
        advice = "Use a local disk (ext4, xfs, btrfs): what a network mount keeps and when is not up to this machine."
        yield note(what, f"{tier.root} is on {kind}", advice)
    yield from _able(tier, kind)
    free = st.f_bavail * st.f_frsize
    total = st.f_blocks * st.f_frsize
    if total and free < _FEW_BYTES * total:
        yield note(
            what, f"only {format_size(free)} are free ({format_percent(free / total)})", "`tierd plan` tells why."
        )
    if st.f_files and st.f_favail < _FEW_INODES * st.f_files:
        share = format_percent(st.f_favail / st.f_files)
        advice = "Many small files use them up before the bytes; make file systems with more (mkfs -i), or use xfs."
        yield note(what, f"only {st.f_favail} inodes are free ({share})", advice)


def _able(tier: Tier, kind: str) -> Iterator[Look]:
    """Whether it does what moving takes: write, exchange two names, keep attributes."""
    from tierd.fs.linux import rename_exchange

    what = f"tier {tier.name}"
    try:
        with tempfile.TemporaryDirectory(prefix=".tierd-doctor-", dir=tier.root) as scratch:
            one, other = Path(scratch, "one"), Path(scratch, "other")
            one.mkdir()
            other.symlink_to("one")
            fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
            try:
                rename_exchange(fd, b"one", fd, b"other")
            finally:
                os.close(fd)
            try:
                os.setxattr(other, "user.tierd", b"1")
            except OSError as e:
                if e.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                    raise
                advice = "Trees with attributes or ACLs are refused there; use ext4, xfs or btrfs."
                yield note(what, f"{kind} keeps no extended attributes", advice)
    except OSError as e:
        advice = "Make it writable for the daemon; tiers need a file system that exchanges names (ext4, xfs, btrfs)."
        yield bad(what, f"{tier.root}: {e.strerror or e}", advice)
        return
    yield fine(what, f"{tier.root} on {kind} can be written, and exchanges names")


def _kind(path: Path) -> str:
    from tierd.observe import mountinfo

    here = os.stat(path).st_dev
    device = f"{os.major(here)}:{os.minor(here)}".encode()
    found = "an unknown file system"
    with contextlib.suppress(OSError):
        for mount in mountinfo.mounts(Path("/proc/self/mountinfo").read_bytes()):
            if mount.device == device:
                found = mount.kind.decode(errors="replace")
    return found


def stores(config: Config) -> Iterator[Look]:
    """Each right that a bucket's tier needs, tried."""
    for tier in config.tiers:
        if tier.s3 is None:
            continue
        from tierd.storage.s3.rights import check_rights

        for each in check_rights(tier.s3):
            what = f"tier {tier.name}, {each.right}"
            yield (
                fine(what, each.message)
                if each.is_ok
                else bad(what, each.message, "See `tierd check-config --connect`.")
            )


def webhooks(config: Config) -> Iterator[Look]:
    """The secret of each webhook: there, right, and nobody else's."""
    from tierd.config.webhook_values import read_secrets

    for webhook in config.webhooks:
        what = f"webhook {webhook.name}"
        try:
            read_secrets(webhook.secret_file)
            mode = webhook.secret_file.stat().st_mode
        except (ConfigError, OSError) as e:
            reason, advice = (e.message, e.hint or "") if isinstance(e, ConfigError) else (str(e), "Try again.")
            yield bad(what, reason, advice)
            continue
        if mode & 0o004:
            advice = f"`chmod o= {webhook.secret_file}`, and replace the secret if others use this machine."
            yield bad(what, f"everybody may read its secret in {webhook.secret_file}", advice)
        elif webhook.url.startswith("http:"):
            advice = "Use https: what is sent can be read on the way; the signature keeps it from being changed."
            yield note(what, f"goes to {webhook.origin} unencrypted", advice)
        else:
            yield fine(what, f"goes to {webhook.origin}; its secret can be read by the daemon alone")


def daemon(tierd: Tierd) -> Iterator[Look]:
    """The daemon that answers, if one does."""
    try:
        status = tierd.status()
    except TierdError as e:
        yield note("daemon", e.message, e.hint or "Start it: `systemctl start tierd`.")
        return
    yield fine("daemon", f"tierd {status.version} answers")
    for tier in status.tiers:
        if not tier.is_online:
            yield bad(
                f"tier {tier.name}", f"is offline: {tier.offline_reason}", "Nothing is lost; bring the disk back."
            )
    tracker = status.tracker
    if tracker.is_degraded:
        yield note("use tracking", tracker.detail, "What was missed is made up for by scans and access times.")
    yield from _deliveries(tierd)
    for problem in status.problems[:5]:
        yield note(f"snapshot {problem.ref}", problem.problem, f"`tierd explain {problem.ref}` tells more.")


def _deliveries(tierd: Tierd) -> Iterator[Look]:
    try:
        found = tierd.webhooks()
    except TierdError as e:  # a daemon of a version before webhooks
        yield note("webhooks", e.message, e.hint or "")
        return
    for webhook in found:
        if webhook.state != "working":
            waits = f"; {webhook.pending} events wait" if webhook.pending else ""
            advice = f"Correct it, and try it: `tierd webhook test {webhook.name}`."
            if webhook.state == "disabled":
                advice = "Correct its url, or remove it, and `systemctl reload tierd`."
            yield bad(f"webhook {webhook.name}", f"is {webhook.state}: {webhook.last_error}{waits}", advice)

"""Typed settings: what the daemon is told. Defaults live here and in the model, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

from tierd.config.windows import local_zone
from tierd.model.dataset import Dataset
from tierd.model.schedule import Schedule
from tierd.model.tier import Tier
from tierd.model.value import Judgement
from tierd.model.webhook import Webhook
from tierd.model.windows import Quiet


@dataclass(frozen=True, kw_only=True)
class ApiConfig:
    """Where the API listens and who may do what.

    Attributes:
        socket: Unix socket; the kernel tells who calls. None: no socket.
        socket_mode: permissions of the socket; 0o666 lets every user read and warm.
        admins: user names that may do everything through the socket, besides root and the daemon's own user.
        listen: "host:port" for TCP, or None. Needs `tokens`.
        tokens: role ("read", "warm", "admin") by SHA-256 of the token (hex); never the token itself.
        hosts: names under which browsers reach the page, besides this machine's own name and its addresses.
        read_without_token: anybody may read over TCP.
    """

    socket: Path | None = Path("/run/tierd/tierd.sock")
    socket_mode: int = 0o666
    admins: tuple[str, ...] = ()
    listen: str | None = None
    hosts: tuple[str, ...] = ()
    read_without_token: bool = False
    tokens: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class MoverConfig:
    """How transfers are carried out.

    Attributes:
        workers: transfers at the same time.
        processes: copying processes per transfer.
        nice, io_class: CPU niceness and I/O class ("idle", "best-effort") of the workers.
        max_attempts: after so many failed attempts a transfer ends as failed.
        backoff_s, backoff_max_s: seconds before the second attempt; doubles up to the maximum.
        release_wait_s: seconds to wait for processes that still use a tree after the switch.
        busy_io: the share of time (0-1) in which others wait for the disks from which transfers that nobody waits for
            are slowed. None: never.
    """

    workers: int = 2
    processes: int = 2
    nice: int = 10
    io_class: str = "best-effort"
    max_attempts: int = 8
    backoff_s: float = 30.0
    backoff_max_s: float = 3600.0
    release_wait_s: float = 10.0
    busy_io: float | None = 0.2


@dataclass(frozen=True, kw_only=True)
class ObserveConfig:
    """How the mounts are watched.

    Attributes:
        tracker: "auto", "fanotify", "watchdog" or "atime".
        scan_interval_s: seconds between full scans of all datasets.
        flush_interval_s: seconds between writes of access times to the catalog.
        attribution: whether to keep who reads (program, user, job).
        ignore_programs, ignore_cgroups: shell patterns on the names of processes and on their control groups;
            ignore_users: user ids. Their reading does not count as use (where the tracker can tell: fanotify).
    """

    tracker: str = "auto"
    scan_interval_s: float = 3600.0
    flush_interval_s: float = 1.0
    attribution: bool = True
    ignore_programs: tuple[str, ...] = ("updatedb*", "plocate*", "mlocate*", "tracker-*", "baloo_*", "restic", "borg")
    ignore_cgroups: tuple[str, ...] = ()
    ignore_users: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """level: "debug", "info", "warning", "error"; format: "auto" (the journal's fields under systemd, else text), …."""

    level: str = "info"
    format: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything the daemon is told.

    Attributes:
        view: where snapshots that are only on an S3 tier would appear; need not exist.
        decide_interval_s: seconds between runs of the planner.
        time_zone: in whose clock time windows and schedules are written.
    """

    tiers: tuple[Tier, ...]
    datasets: tuple[Dataset, ...]
    schedules: tuple[Schedule, ...] = ()
    webhooks: tuple[Webhook, ...] = ()
    database: Path = Path("/var/lib/tierd/tierd.db")
    view: Path = Path("/run/tierd/view")
    decide_interval_s: float = 30.0
    api: ApiConfig = field(default_factory=ApiConfig)
    mover: MoverConfig = field(default_factory=MoverConfig)
    observe: ObserveConfig = field(default_factory=ObserveConfig)
    time_zone: ZoneInfo = field(default_factory=local_zone)
    quiet: Quiet = field(default_factory=Quiet)
    value: Judgement = field(default_factory=Judgement)
    log: LogConfig = field(default_factory=LogConfig)
    source: Path | None = None
    """The file this was read from."""

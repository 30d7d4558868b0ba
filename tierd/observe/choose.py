"""Choose the back end that tracks accesses: the best that works here."""

from __future__ import annotations

import errno

from tierd.config import ObserveConfig
from tierd.observe import inotify
from tierd.observe.atime_tracker import AtimeTracker
from tierd.observe.fanotify_tracker import FanotifyTracker
from tierd.observe.tracker import Clock, Tracker
from tierd.observe.watchdog_tracker import WatchdogTracker
from tierd.observe.who import Ignored, Who

_INSTANCES = "fs.inotify.max_user_instances"


def choose(config: ObserveConfig, *, clock: Clock) -> Tracker:
    """The back end that `config.tracker` asks for, or the next best where that one cannot work.

    A tracker is never a reason not to start: what is missing is in its status.
    """
    if config.tracker == "atime":
        return AtimeTracker(clock=clock, interval_s=config.scan_interval_s)
    if config.tracker == "watchdog":
        return _watchdog(config, clock)
    ignored = Ignored(programs=config.ignore_programs, cgroups=config.ignore_cgroups, users=config.ignore_users)
    fallback = _watchdog(config, clock)
    try:
        return FanotifyTracker(
            clock=clock,
            fallback=fallback,
            who=Who(ignored=ignored, names_readers=config.attribution),
            sample_every_s=config.scan_interval_s,
        )
    except OSError as error:
        fallback.stop()
        advice = (
            "grant CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH, as the systemd unit does"
            if error.errno == errno.EPERM
            else "it needs Linux 5.9 or newer"
        )
        return _watchdog(config, clock, missed=f"fanotify cannot be used ({error.strerror}): {advice}")


def _watchdog(config: ObserveConfig, clock: Clock, *, missed: str | None = None) -> Tracker:
    """inotify, or access time sampling where that cannot work. `missed`: why it is not what was asked for."""
    name, limit = inotify.watch_limit()
    try:
        return WatchdogTracker(
            clock=clock,
            fallback=AtimeTracker(clock=clock, interval_s=config.scan_interval_s),
            # The limit is per user: a part of it is left to editors and the like that run as the same user.
            max_watches=None if limit is None else limit * 9 // 10,
            missed=missed,
        )
    except OSError as error:
        if error.errno != errno.ENOSPC:
            name, limit = _INSTANCES, inotify.sysctl(_INSTANCES)
        reason = f"inotify cannot be used ({error.strerror}): raise the sysctl {name} (now {limit})"
        return AtimeTracker(
            clock=clock, interval_s=config.scan_interval_s, reason="; ".join(filter(None, (missed, reason)))
        )

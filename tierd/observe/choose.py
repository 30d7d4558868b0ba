"""Choose the back end that tracks accesses."""

from __future__ import annotations

import errno

from tierd.config import ObserveConfig
from tierd.observe import inotify
from tierd.observe.atime_tracker import AtimeTracker
from tierd.observe.tracker import Clock, Tracker
from tierd.observe.watchdog_tracker import WatchdogTracker

_INSTANCES = "fs.inotify.max_user_instances"


def choose(config: ObserveConfig, *, clock: Clock) -> Tracker:
    """The back end that `config.tracker` asks for, or access time sampling where that one cannot work.

    A tracker is never a reason not to start: what is missing is in its status.
    """
    if config.tracker == "atime":
        return AtimeTracker(clock=clock, interval_s=config.scan_interval_s)
    name, limit = inotify.watch_limit()
    try:
        return WatchdogTracker(
            clock=clock,
            fallback=AtimeTracker(clock=clock, interval_s=config.scan_interval_s),
            # The limit is per user: a part of it is left to editors and the like that run as the same user.
            max_watches=None if limit is None else limit * 9 // 10,
        )
    except OSError as error:
        if error.errno != errno.ENOSPC:
            name, limit = _INSTANCES, inotify.sysctl(_INSTANCES)
        return AtimeTracker(
            clock=clock,
            interval_s=config.scan_interval_s,
            reason=f"inotify cannot be used ({error.strerror}): raise the sysctl {name} (now {limit})",
        )

"""The few threads for requests that commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, TypeVar

import anyio
import anyio.to_thread

_THREADS = 8
_MEASURERS = 2

_T = TypeVar("_T")


class Writers:
    """Runs calls that commit, a few at a time.

    All commits go through one lock and wait for the disk. When 64 ranks warm or renew at once, they wait here, on the
    event loop; in the common pool they would keep the threads from those who only read.
    """

    def __init__(self, threads: int = _THREADS) -> None:
        self._limiter = anyio.CapacityLimiter(threads)

    @classmethod
    def for_measuring(cls) -> Self:
        """For calls that read from a tier, and hang when its disk does."""
        return cls(_MEASURERS)

    async def run(self, call: Callable[[], _T]) -> _T:
        """Run the call in a thread."""
        return await anyio.to_thread.run_sync(call, limiter=self._limiter)

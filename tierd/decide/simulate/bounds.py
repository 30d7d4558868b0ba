"""What no policy can beat, however much it knows of the future.

Between two uses of a snapshot it either stays on flash, and takes its bytes for that long, or the second use is a miss.
Letting every interval stay for a part only gives a linear program (FOO: Berger, Beckmann, Harchol-Balter, "Practical
bounds on optimal caching with variable object sizes", 2018); giving up that flash is bounded at each moment, and
bounding only its sum over time, gives a weaker bound that takes a sort (PFOO-L of the same paper).
"""

from __future__ import annotations

from dataclasses import dataclass

from tierd.decide.simulate.trace import Trace

MOST_ACCESSES = 20_000
"""Up to here the linear program takes seconds."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """`method`: "foo" (linear program) or "pfoo-l" (weaker, for long traces, or where scipy is missing)."""

    method: str
    byte_miss_ratio: float
    is_without_scipy: bool = False


def lower_bound(trace: Trace, flash_bytes: int, *, most_accesses: int = MOST_ACCESSES) -> Bound:
    """The least byte-miss ratio that is possible, or something below it."""
    requested = trace.requested_bytes
    intervals = [(n, after) for n, after in enumerate(trace.next_use) if after < len(trace)]
    intervals = [(n, after) for n, after in intervals if trace.sizes[trace.snapshots[n]] <= flash_bytes]
    hits: float | None = None
    is_without_scipy = False
    if len(trace) <= most_accesses:
        try:
            hits = _foo(trace, intervals, flash_bytes)
        except ImportError:
            is_without_scipy = True
    method = "pfoo-l" if hits is None else "foo"
    if hits is None:
        hits = _pfoo(trace, intervals, flash_bytes)
    # Every access that finds nothing brings its snapshot once, whatever its passes.
    misses = sum(trace.sizes[s] for s in trace.snapshots) - hits
    ratio = max(0.0, misses / requested) if requested else 0.0
    return Bound(method=method, byte_miss_ratio=ratio, is_without_scipy=is_without_scipy)


def _pfoo(trace: Trace, intervals: list[tuple[int, int]], flash_bytes: int) -> float:
    """The shortest intervals first, until flash would be full for the whole time. Time is counted in accesses."""
    left = float(flash_bytes) * len(trace)
    hits = 0.0
    for length, size in sorted((after - n, trace.sizes[trace.snapshots[n]]) for n, after in intervals):
        area = float(length * size)
        if area >= left:
            return hits + left / length
        left -= area
        hits += size
    return hits


def _foo(trace: Trace, intervals: list[tuple[int, int]], flash_bytes: int) -> float | None:
    """The linear program; None where it cannot be solved.

    Raises:
        ImportError: scipy is not installed.
    """
    import numpy as np
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    if not intervals:
        return 0.0
    # Unknowns: how much of each interval stays, then how full flash is between each access and the next one.
    count, steps = len(intervals), len(trace)
    sizes = [trace.sizes[trace.snapshots[n]] / flash_bytes for n, _ in intervals]
    rows, columns, values = [], [], []
    for i, ((n, after), size) in enumerate(zip(intervals, sizes, strict=True)):
        rows += [n, after]
        columns += [i, i]
        values += [-size, size]
    for step in range(steps):
        rows.append(step)
        columns.append(count + step)
        values.append(1.0)
        if step:
            rows.append(step)
            columns.append(count + step - 1)
            values.append(-1.0)
    matrix = coo_array((values, (rows, columns)), shape=(steps, count + steps)).tocsr()
    gain = np.concatenate([-np.array(sizes), np.zeros(steps)])
    solved = linprog(gain, A_eq=matrix, b_eq=np.zeros(steps), bounds=(0.0, 1.0), method="highs")
    return None if solved.status != 0 else float(-solved.fun) * flash_bytes

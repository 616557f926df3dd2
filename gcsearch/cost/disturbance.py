"""What disturbs a measurement: other processes on its cores, a stolen or throttled processor.

Reads the kernel's counters where there are some (Linux); elsewhere nothing is watched, and only
the spread of the measurement itself tells. Knows no model.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Disturbance", "watched"]

IDLE = (3, 4)
"""Columns idle and iowait of a core's line in /proc/stat; guest time is counted in user time."""
N_COUNTED = 8
STEAL = 7
RESOLUTION = 2
"""Ticks of each core that the counters may be off by, those of a core and our own together."""
THROTTLED = 0.1
"""A clock that moved by more than this share has been throttled or boosted meanwhile."""


@dataclass
class Disturbance:
    """What happened beside a measurement, as shares of the time of its cores.

    Args:
        others: Taken by other processes and interrupts.
        stolen: Taken by the hypervisor for other machines.
        clock: Largest relative change of a core's frequency between start and end.
    """

    others: float = 0.0
    stolen: float = 0.0
    clock: float = 0.0

    def reason(self, allowed: float) -> str:
        """Return in words why a measurement does not count, or ``""``.

        Args:
            allowed: Share of the cores' time that may go elsewhere.

        Example:
            >>> Disturbance(others=0.3).reason(allowed=0.1)
            'other processes took 30 % of the cores measured on'
            >>> Disturbance(others=0.05).reason(allowed=0.1)
            ''
        """
        if self.stolen > allowed:
            return f"the hypervisor took {100 * self.stolen:.0f} % of the cores measured on"
        if self.others > allowed:
            return f"other processes took {100 * self.others:.0f} % of the cores measured on"
        if self.clock > max(THROTTLED, allowed):
            return f"the processor's clock changed by {100 * self.clock:.0f} % meanwhile"
        return ""


@contextmanager
def watched(cores: Sequence[int]) -> Iterator[Disturbance]:
    """Yield what will hold, after the block, what disturbed it.

    The kernel counts in ticks of some 10 ms, so that in a block of a few of them a single tick
    would look like a core's whole time: what the counters may be off by is not called disturbance.

    Args:
        cores: Those that this process is pinned to; none leaves everything at zero.
    """
    seen = Disturbance()
    before, clock, own, start = _counters(cores), _clocks(cores), _own_s(), time.perf_counter()
    yield seen
    elapsed_s = (time.perf_counter() - start) * len(cores)
    after = _counters(cores)
    if not before or not after or elapsed_s <= 0:
        return
    spent = [late - early for early, late in zip(before, after, strict=True)]
    busy_s = sum(n for i, n in enumerate(spent) if i not in (*IDLE, STEAL))
    doubt_s = RESOLUTION * _tick_s() * len(cores)
    seen.others = max(0.0, busy_s - (_own_s() - own) - doubt_s) / elapsed_s
    seen.stolen = max(0.0, spent[STEAL] - doubt_s) / elapsed_s
    pairs = zip(clock, _clocks(cores), strict=False)
    seen.clock = max((abs(late / early - 1) for early, late in pairs if early), default=0.0)


def _counters(cores: Sequence[int]) -> list[float]:
    """Return the seconds that some cores have spent so far, by kind."""
    wanted = {f"cpu{core}" for core in cores}
    sums = [0.0] * N_COUNTED
    with suppress(OSError):
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        rows = [line[1 : 1 + N_COUNTED] for line in lines if line and line[0] in wanted]
        if rows:
            return [_tick_s() * sum(int(row[i]) for row in rows) for i in range(len(sums))]
    return []


def _clocks(cores: Sequence[int]) -> list[float]:
    """Return the frequencies of some cores, where the system tells."""
    clocks = []
    for core in cores:
        with suppress(OSError, ValueError):
            path = Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq")
            clocks.append(float(path.read_text()))
    return clocks


def _own_s() -> float:
    times = os.times()
    return times.user + times.system


def _tick_s() -> float:
    return 1 / os.sysconf("SC_CLK_TCK")

"""What disturbs a measurement: other processes on its cores or beside, a stolen or throttled core.

Cores share their cache and the way to memory, of which blocks that pool use more than backbones: a
training on one of two cores (AMD EPYC) moved ratios of ResNet-18 at 64 px, timed on the other, by
1.5 % +- 0.7 % in the mean and by 3.4 % at most. In a container the counters are those of its host:
where that is always busy, `latency.disturbance` has to be raised.

Reads the kernel's counters where there are some (Linux); elsewhere nothing is watched, and only
the spread of the measurement itself tells. Knows no model.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Disturbance", "watched"]

BUSY = [0, 1, 2, 5, 6]
"""Columns of a line of /proc/stat: user, nice, system, irq, softirq; guest time is counted in
user time."""
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
        beside: The same on the machine's other cores, as a share of the time of all its cores.
        stolen: Taken by the hypervisor for other machines.
        clock: Largest relative change of a core's frequency between start and end.
    """

    others: float = 0.0
    beside: float = 0.0
    stolen: float = 0.0
    clock: float = 0.0

    def reason(self, allowed: float) -> str:
        """Return in words why a measurement does not count, or ``""``.

        Args:
            allowed: Share of the cores' time that may go elsewhere, and of all cores' to others.

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
        if self.beside > allowed:
            return (
                f"other processes took {100 * self.beside:.0f} % of all cores, which share the "
                "cache with those measured on"
            )
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
    before, clock, own, start = _counters(), _clocks(cores), _own_s(), time.perf_counter()
    yield seen
    elapsed_s = time.perf_counter() - start
    spent = {core: late - before[core] for core, late in _counters().items() if core in before}
    here = [core for core in cores if core in spent]
    if not here or elapsed_s <= 0:
        return
    doubt_s = RESOLUTION * _tick_s()

    def share(seconds: float, of: Collection[int]) -> float:
        return max(0.0, seconds - doubt_s * len(of)) / (elapsed_s * len(of))

    busy_s = {core: float(times[BUSY].sum()) for core, times in spent.items()}
    busy_here_s = sum(busy_s[core] for core in here)
    seen.others = share(busy_here_s - (_own_s() - own), here)
    seen.beside = share(sum(busy_s.values()) - busy_here_s, spent)
    seen.stolen = share(sum(float(spent[core][STEAL]) for core in here), here)
    pairs = zip(clock, _clocks(cores), strict=False)
    seen.clock = max((abs(late / early - 1) for early, late in pairs if early), default=0.0)


def _counters() -> dict[int, NDArray[np.float64]]:
    """Return the seconds that each core has spent so far, by kind."""
    with suppress(OSError):
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        return {
            int(line[0].removeprefix("cpu")): _tick_s() * np.array(line[1:], dtype=float)
            for line in lines
            if line and re.fullmatch(r"cpu\d+", line[0])
        }
    return {}


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

"""What each site is to the network: its kind and stage, read off the flow of data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from gcsearch.surgery.layout import Features
from gcsearch.surgery.site import AFTER_ADD, BEFORE_ADD, OTHER, STAGE_END
from gcsearch.surgery.tracing import Trace, Value

__all__ = ["Role", "assign_roles"]

POINTWISE = frozenset(
    {"relu", "hardtanh", "leaky_relu", "prelu", "elu", "celu", "gelu", "silu", "mish", "hardswish"}
    | {"clamp", "clamp_min", "alias", "detach", "clone", "_to_copy"}
)
"""Operations after an addition that leave the output of a module that of the addition."""


@dataclass(frozen=True)
class Role:
    """The part of a site that does not depend on its shape alone."""

    kind: str = OTHER
    stage: int | None = None
    is_stage_end: bool = False


def assign_roles(trace: Trace, sites: Sequence[Features]) -> dict[str, Role]:
    """Return the role of each site, by path.

    Several modules may return the same value, as a container and its last layer do: one of them
    gets the kind, the others are ``"other"``, so that no place is counted twice.

    Args:
        trace: A forward of the model.
        sites: What the eligible modules return, in order of execution.
    """
    after = _after_adds(trace, sites)
    before = _before_adds(trace, sites, after)
    order = {site.path: i for i, site in enumerate(sites)}
    stages = _runs(after.values()) if after else _weighted_runs(trace, _bottlenecks(trace, sites))
    ends = {run[-1].path for run in stages}
    kinds = dict.fromkeys(ends, STAGE_END)
    kinds |= {site.path: BEFORE_ADD for site in before}
    kinds |= {site.path: AFTER_ADD for site in after.values()}
    return {
        site.path: Role(
            kinds.get(site.path, OTHER), _stage_of(site, order, stages), site.path in ends
        )
        for site in sites
    }


def _after_adds(trace: Trace, sites: Sequence[Features]) -> dict[int, Features]:
    """Return the site of each residual addition, by the number of the sum, in order of execution.

    It is the module whose own forward adds, or else the first one that returns the sum.
    """
    n_uses = Counter(number for value in trace.values for number in set(value.inputs))
    candidates: dict[int, list[Features]] = {}
    for site in sites:
        total = _addition_behind(trace.values, n_uses, site.value)
        if total is not None:
            candidates.setdefault(total, []).append(site)
    chosen = {
        total: next((s for s in returns if s.path == trace.values[total].module), returns[0])
        for total, returns in candidates.items()
    }
    order = {site.path: i for i, site in enumerate(sites)}
    return dict(sorted(chosen.items(), key=lambda item: order[item[1].path]))


def _addition_behind(values: list[Value], n_uses: Counter[int], number: int | None) -> int | None:
    """Follow pointwise operations back to a residual addition.

    Stops where an intermediate value is used elsewhere too: a ReLU that opens the next residual
    branch does not return the output of the addition, which goes on beside it.
    """
    while number is not None:
        value = values[number]
        if _is_residual_addition(values, value):
            return number
        goes_on = value.operation in POINTWISE and n_uses[value.inputs[0]] == 1
        number = value.inputs[0] if goes_on else None
    return None


def _is_residual_addition(values: list[Value], value: Value) -> bool:
    shapes = [values[number].shape for number in value.inputs]
    return value.operation == "add" and len(value.shape) >= 3 and shapes == [value.shape] * 2


def _before_adds(
    trace: Trace, sites: Sequence[Features], after: dict[int, Features]
) -> Iterable[Features]:
    """Return the site that ends the main branch of each residual addition, where there is one."""
    depths = _depths(trace.values)
    main = {max(trace.values[total].inputs, key=depths.__getitem__) for total in after}
    first = {site.value: site for site in reversed(sites)}
    return [first[number] for number in main if number in first]


def _depths(values: list[Value]) -> list[int]:
    depths: list[int] = []
    for value in values:
        depths.append(1 + max((depths[number] for number in value.inputs), default=-1))
    return depths


def _bottlenecks(trace: Trace, sites: Sequence[Features]) -> list[Features]:
    """Return the first site of each value that is all the later computation sees of the input."""
    last_use = [0] * len(trace.values)
    for value in trace.values:
        for source in value.inputs:
            last_use[source] = value.step
    alone, reach = set(), 0
    for number, value in enumerate(trace.values):
        if reach <= value.step:
            alone.add(number)
        reach = max(reach, last_use[number])
    first = {site.value: site for site in reversed(sites)}
    return [site for site in sites if site.value in alone and first[site.value] is site]


def _runs(sites: Iterable[Features]) -> list[list[Features]]:
    return [list(run) for _, run in groupby(sites, key=lambda site: site.positions)]


def _weighted_runs(trace: Trace, sites: Iterable[Features]) -> list[list[Features]]:
    """Return the runs of one resolution with weights in them: a pooling alone is no stage."""
    runs, start = [], 0
    for run in _runs(sites):
        end = run[-1].value + 1
        if any(value.is_weighted for value in trace.values[start:end]):
            runs.append(run)
        start = end
    return runs


def _stage_of(
    site: Features, order: dict[str, int], stages: Sequence[Sequence[Features]]
) -> int | None:
    """Return the stage of this resolution that ends after the site, or else the last one."""
    same = [i for i, run in enumerate(stages, 1) if run[-1].positions == site.positions]
    later = [i for i in same if order[stages[i - 1][-1].path] >= order[site.path]]
    return next(iter(later or same[-1:]), None)

"""The choice of one architecture, by a rule or by its number, and the rule in words."""

from __future__ import annotations

from collections.abc import Sequence

from gcsearch.errors import StudyError, UnknownNameError
from gcsearch.results.confirmation import Confirmation
from gcsearch.results.front import Finding, front

__all__ = ["PICKS", "candidate_of", "choose", "rule_of"]

PICKS = {
    "best": "highest lower end of the gain's interval within the latency limit, if that is above "
    "zero; where any were tried on fresh seeds, of those alone that gained beyond noise; else the "
    "baseline",
    "knee": "farthest above the line between the ends of the front",
    "fastest": "lowest cost, by the study's objective, among those not worse than the baseline",
}


def candidate_of(found: Sequence[Finding]) -> Finding:
    """Return the altered network with the highest lower end of its gain, or the baseline alone."""
    altered = [f for f in found if not f.is_baseline]
    return max(altered, key=lambda f: (f.gain.low, -f.number)) if altered else found[0]


def choose(
    found: Sequence[Finding],
    pick: str = "best",
    *,
    trial: int | None = None,
    confirmed: Sequence[Confirmation] = (),
    limit: float | None = None,
) -> Finding:
    """Choose one architecture.

    Args:
        found: All complete trials, the baseline among them.
        pick: One of :data:`PICKS`.
        trial: A trial's number instead of a rule.
        confirmed: What fresh seeds say of some of them, for ``"best"``.
        limit: Most that the upper end of a latency ratio may be, for ``"best"``.

    Raises:
        UnknownNameError: No such rule.
        StudyError: No such trial, or it is not complete.
    """
    if trial is not None:
        by_number = {f.number: f for f in found}
        if trial not in by_number:
            complete = ", ".join(map(str, sorted(by_number)))
            raise StudyError(f"trial {trial} is not complete; complete are {complete}")
        return by_number[trial]
    if pick not in PICKS:
        raise UnknownNameError("pick", pick, PICKS)
    if pick == "knee":
        return _knee(front(found))
    if pick == "fastest":
        not_worse = [f for f in found if f.gain.value >= 0]
        return min(not_worse, key=lambda f: (f.cost.value, -f.gain.value))
    baseline = next(f for f in found if f.is_baseline)
    return _surest(confirmed, limit) or baseline if confirmed else _luckiest(found, limit)


def rule_of(
    chosen: Finding,
    pick: str = "best",
    *,
    trial: int | None = None,
    confirmed: Sequence[Confirmation] = (),
) -> str:
    """Return by which rule something was chosen, and whether its gain was confirmed."""
    rule = PICKS[pick] if trial is None else f"trial {trial} was asked for"
    own = next((c for c in confirmed if c.finding.number == chosen.number), None)
    if chosen.is_baseline:
        n_sure = sum(c.is_sure for c in confirmed)
        tried = f"of {len(confirmed)} tried on fresh seeds, {n_sure} gained beyond noise"
        return f"{rule}; {tried}" if confirmed else rule
    if own is None:
        return f"{rule}; its gain is the search's and was not confirmed"
    return (
        f"{rule}; its gain was {'' if own.is_sure else 'not '}confirmed on {own.seeds} fresh "
        f"seed(s): {own.verdict.partition(': ')[2]}"
    )


def _surest(confirmed: Sequence[Confirmation], limit: float | None) -> Finding | None:
    """Return the surest of the confirmed gains within the limit."""
    fit = [c for c in confirmed if c.is_sure and (limit is None or c.latency.high <= limit)]
    return max(fit, key=lambda c: (c.gain.low, -c.finding.number)).finding if fit else None


def _luckiest(found: Sequence[Finding], limit: float | None) -> Finding:
    """Return the surest gain by the search alone; the baseline's is exactly 0."""
    fit = [f for f in found if f.is_baseline or limit is None or f.latency.high <= limit]
    return max(fit, key=lambda f: (f.gain.low, f.is_baseline, -f.number))


def _knee(kept: Sequence[Finding]) -> Finding:
    """Return the point of the front farthest above the chord between its ends."""
    first, last = kept[0], kept[-1]
    run = last.cost.value - first.cost.value
    rise = last.evaluation.top1 - first.evaluation.top1

    def above_chord(finding: Finding) -> float:
        along = (finding.cost.value - first.cost.value) * rise
        return (finding.evaluation.top1 - first.evaluation.top1) * run - along

    return max(kept, key=above_chord)

"""A study and a trial in words, as Markdown; writes nothing, and knows no note."""

from __future__ import annotations

import re
import shlex

from gcsearch.architecture import Architecture, Insertion
from gcsearch.cost import COSTS
from gcsearch.intervals import Interval
from gcsearch.report import front_view, show_cost, show_points, verdict_of
from gcsearch.results import Confirmation, Finding, SearchResult
from gcsearch.study import Attempt, SearchStudy
from gcsearch.study.storage import DEFAULT_URL

__all__ = ["escaped", "study_words", "trial_words"]

BLOCK_NAMES = {
    "gc": "global context",
    "se": "squeeze-excitation",
    "snl": "simplified non-local",
    "nl": "non-local",
}
UNCONFIRMED = (
    "Not confirmed on fresh seeds: a search picks the luckiest of many, so take it for a guess."
)


def study_words(study: SearchStudy, result: SearchResult | None, storage: str) -> str:
    """Return the verdict, the front and what to do next.

    Args:
        study: Whose plan and progress are told.
        result: What it came to; ``None`` while the baseline's own trial is not complete.
        storage: URL of the database, for the commands.
    """
    if result is None:
        return f"**The baseline's own trial is not complete yet.**\n\n{_commands(study, storage)}"
    verdict = verdict_of(study, result, front_view(study, result, []))
    told = "\n".join(f"- {escaped(sentence)}" for sentence in verdict.sentences)
    table = _front_table(result)
    return f"**{escaped(verdict.headline)}**\n\n{told}\n\n{table}\n\n{_commands(study, storage)}"


def trial_words(
    attempt: Attempt,
    finding: Finding | None = None,
    confirmation: Confirmation | None = None,
    *,
    is_over: bool = False,
) -> str:
    """Return what became of a trial, and what it was.

    Args:
        attempt: The trial, which has ended.
        finding: It compared with the baseline, if it is complete.
        confirmation: What fresh seeds say of it.
        is_over: Whether it breaks a limit of the study, although it was trained.
    """
    row = attempt.row
    parts = [_outcome(attempt, finding)]
    if is_over and not attempt.is_refused:
        parts.append("**Infeasible:** it is over a limit of the study.")
    if confirmation is not None:
        parts.append(_confirmed(confirmation))
    elif finding is not None and not finding.is_baseline:
        parts.append(UNCONFIRMED)
    if row.architecture is not None:
        parts.append(_architecture(row.architecture))
    costs = _costs(finding) if finding else {str(c): v for c, v in attempt.costs.items()}
    if costs and not (finding and finding.is_baseline):
        parts.append(_cost_table(costs, is_predicted=attempt.is_predicted))
    return "\n\n".join(parts)


def escaped(text: str) -> str:
    r"""Return text that Markdown shows as it is, on one line: names are anybody's.

    Example:
        >>> print(escaped("my_model [x](y)"))
        my\_model \[x\](y)
    """
    return re.sub(r"([\\`*_\[\]<>|~#&!])", r"\\\1", " ".join(text.split()))


def _outcome(attempt: Attempt, finding: Finding | None) -> str:
    row, reason = attempt.row, escaped(attempt.row.reason or "no reason is known")
    if row.duplicate_of is not None:
        repeats = ", whose values it repeats" if row.state == "COMPLETE" else ""
        return f"**Same architecture as trial {row.duplicate_of}**{repeats}."
    if attempt.is_refused:
        return f"**Refused:** {reason}."
    if row.state != "COMPLETE":
        again = " The architecture may be proposed again." if row.retry else ""
        return f"**Failed:** {reason}.{again}"
    if finding is None:
        return "**Complete**; the baseline's own trial is not yet, so there is no gain to tell."
    top1 = f"top1 {finding.evaluation.top1:.3f}"
    if finding.is_baseline:
        return f"**The unaltered backbone**, given the same training as every other: {top1}."
    gain, cost = escaped(show_points(finding.gain)), escaped(show_cost(finding.cost))
    return (
        f"**{gain} in the search, for {cost} of the backbone's {finding.objective}**; {top1} on "
        "the validation split."
    )


def _confirmed(confirmation: Confirmation) -> str:
    found = f"{escaped(show_points(confirmation.gain))} on {confirmation.seeds} fresh seed(s)"
    anew = escaped(show_cost(confirmation.latency))
    timed = f", timed anew {anew} of the latency" if confirmation.is_retimed else ""
    p_value = f"p {confirmation.p_corrected:.2g}, of {confirmation.compared} compared, by Holm"
    if confirmation.is_sure:
        return f"**Confirmed:** {found} and test pictures{timed} ({p_value})."
    return f"**Not confirmed:** {found} and test pictures{timed} is not beyond noise ({p_value})."


def _architecture(architecture: Architecture) -> str:
    if architecture.is_baseline:
        return f"{escaped(architecture.backbone)} without any insertion."
    inserted = "\n".join(f"- {_insertion(i)}" for i in architecture.insertions)
    return f"{escaped(architecture.backbone)} with\n\n{inserted}"


def _insertion(insertion: Insertion) -> str:
    short = str(insertion).removeprefix(f"{insertion.site} ")
    name = BLOCK_NAMES.get(insertion.block, insertion.block)
    settings = ", ".join(_setting(key, value) for key, value in insertion.settings().items())
    full = f"{name}: {settings}" if settings else name
    return f"at {escaped(insertion.site)}: **{escaped(short)}** ({escaped(full)})"


def _setting(key: str, value: object) -> str:
    if isinstance(value, tuple):
        return f"{key} {' and '.join(map(str, value))}"
    if isinstance(value, float) and (1 / value).is_integer():
        return f"{key} 1/{round(1 / value)}"
    return f"{key} {value}"


def _costs(finding: Finding) -> dict[str, Interval]:
    counted = {cost: Interval(ratio, ratio, ratio) for cost, ratio in finding.ratios.items()}
    return {"latency": finding.latency, **counted}


def _cost_table(costs: dict[str, Interval], *, is_predicted: bool) -> str:
    rows = [
        f"| {cost} | {escaped(show_cost(costs[cost]))}"
        f"{', predicted' if is_predicted and cost == 'latency' else ''} |"
        for cost in COSTS
        if cost in costs
    ]
    return "\n".join(["| cost | ratio to the backbone |", "|---|---|", *rows])


def _front_table(result: SearchResult) -> str:
    confirmed = {c.finding.number: c for c in result.confirmed}
    head = f"| front | trial | top1 | gain in the search | confirmed | {result.objective} ratio |"
    rows = [
        f"| {'**chosen:** ' if finding == result.best else ''}"
        f"{escaped(str(finding.evaluation.architecture))} "
        f"| {finding.number} | {finding.evaluation.top1:.3f} "
        f"| {'' if finding.is_baseline else escaped(show_points(finding.gain))} "
        f"| {escaped(show_points(own.gain)) if (own := confirmed.get(finding.number)) else ''} "
        f"| {1 if finding.is_baseline else escaped(show_cost(finding.cost))} |"
        for finding in result.front
    ]
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def _commands(study: SearchStudy, storage: str) -> str:
    where = ["--study", study.name, *([] if storage == DEFAULT_URL else ["--storage", storage])]
    told = {
        "Go on": ["gcsearch", "run", *where],
        "Confirm the front": ["gcsearch", "confirm", *where],
        "Make a report": ["gcsearch", "report", *where, "-o", "report.html"],
    }
    return "\n".join(f"- {what}: {_code(shlex.join(words))}" for what, words in told.items())


def _code(text: str) -> str:
    """Return text as code, fenced by more backticks than it holds in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"

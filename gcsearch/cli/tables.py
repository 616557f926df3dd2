"""Results as tables and lines for people."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from gcsearch.cli.options import storage_words

if TYPE_CHECKING:
    from gcsearch.cost import Cost
    from gcsearch.cost.table import Residuals
    from gcsearch.evaluation import Evaluation
    from gcsearch.intervals import Interval
    from gcsearch.plan import Plan
    from gcsearch.results import Confirmation, Finding, SearchResult
    from gcsearch.study import SearchStudy

__all__ = [
    "confirmed_line",
    "confirmed_lines",
    "confirmed_table",
    "costs_line",
    "front_table",
    "plain_table",
    "plan_lines",
    "points",
    "residual_line",
    "result_lines",
    "stdout",
]


def stdout() -> Console:
    """Return a console that does not wrap tables when piped."""
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    return console


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: int = 0) -> Table:
    """Return a plain table; the columns from number ``right`` on are right-aligned."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for index, column in enumerate(columns):
        is_right = right and index >= right
        table.add_column(column, justify="right" if is_right else "left", no_wrap=bool(is_right))
    for row in rows:
        table.add_row(*row)
    return table


def points(fraction: float) -> str:
    """Return a difference in top1 as percentage points.

    Example:
        >>> points(0.0123)
        '+1.2'
    """
    return f"{100 * fraction:+.1f}"


def front_table(result: SearchResult) -> Table:
    """Return the front against the baseline; the recommended trial is marked."""
    kept, confirmed = result.front, {c.finding.number: c for c in result.confirmed}
    rows = [_finding_row(finding, finding == result.best) for finding in kept]
    costs = dict.fromkeys([*(f"{f.objective} ratio" for f in kept), "latency ratio", "params"])
    columns = ["", "architecture", "trial", "top1", "gain, points", *costs]
    if confirmed:
        columns.insert(5, "confirmed")
        for row, finding in zip(rows, kept, strict=True):
            own = confirmed.get(finding.number)
            row.insert(5, interval_points(own.gain) if own else "")
    return plain_table(columns, rows, right=2)


def confirmed_table(result: SearchResult) -> Table:
    """Return what fresh seeds say of each gain; the recommended trial is marked."""
    rows = [
        [
            "*" if confirmation.finding == result.best else "",
            str(confirmation.architecture).replace("; ", "\n"),
            str(confirmation.finding.number),
            str(confirmation.seeds),
            points(confirmation.finding.gain.value),
            interval_points(confirmation.gain),
            points(confirmation.shrinkage),
            f"{confirmation.p_corrected:.2g}",
            _ratio(confirmation.latency),
        ]
        for confirmation in result.confirmed
    ]
    columns = ["", "architecture", "trial", "seeds", "searched", "confirmed", "shrinkage"]
    return plain_table([*columns, "Holm p", "latency ratio"], rows, right=2)


def confirmed_line(confirmed: Sequence[Confirmation]) -> str:
    """Return how many gains were confirmed on how many seeds, and held."""
    seeds = sorted({confirmation.seeds for confirmation in confirmed})
    span = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    n_sure = sum(confirmation.is_sure for confirmation in confirmed)
    return (
        f"checked  {len(confirmed)} architecture(s) on {span} fresh seed(s): "
        f"{n_sure} better than the backbone beyond noise"
    )


def confirmed_lines(result: SearchResult) -> list[str]:
    """Return the verdict on each gain that was tried on fresh seeds, and on the whole."""
    lines = [f"checked  {confirmation.verdict}" for confirmation in result.confirmed]
    if result.verdict is not None:
        lines.append(f"verdict  {result.verdict}")
    return lines


def interval_points(gain: Interval) -> str:
    """Return a gain as percentage points with its interval."""
    return f"{points(gain.value)} [{points(gain.low)}, {points(gain.high)}]"


def _ratio(ratio: Interval) -> str:
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def costs_line(evaluation: Evaluation, objective: Cost) -> str:
    """Return the latency of an evaluation, and before it the cost that is minimised instead."""
    from gcsearch.cost import show_counted

    latency = f"latency {evaluation.latency}"
    ratio = None if objective == "latency" else evaluation.cost_ratio(objective)
    return latency if ratio is None else f"{objective} {show_counted(ratio)}  {latency}"


def _finding_row(finding: Finding, is_best: bool) -> list[str]:
    from gcsearch.cost import show_counted

    gain, latency, evaluation = finding.gain, finding.latency, finding.evaluation
    if finding.is_baseline:
        gain_text, latency_text, counted_text = "0", "1", "1"
    else:
        gain_text, latency_text = interval_points(gain), _ratio(latency)
        counted_text = show_counted(finding.cost.value)
    return [
        "*" if is_best else "",
        str(evaluation.architecture).replace("; ", "\n"),
        str(finding.number),
        f"{evaluation.top1:.3f}",
        gain_text,
        *([counted_text] if finding.objective != "latency" else []),
        latency_text,
        f"{evaluation.params / 1e6:.2f} M",
    ]


def plan_lines(plan: Plan, study: str, n_done: int) -> list[str]:
    """Return what a run will do, before it does it."""
    minutes = f"about {plan.total_s / 60:.0f} min"
    budget = "no time limit" if plan.budget_s is None else f"budget {plan.budget_s / 60:.0f} min"
    lines = [
        f"plan     {minutes} in all ({budget}), {plan.workers} worker(s)",
        f"         baseline: {plan.baseline.images_seen} pictures, {plan.baseline_s:.0f} s",
        f"         trials:   baseline + {plan.n_trials} architectures, "
        f"{plan.trial.images_seen} pictures in {plan.trial.epochs} epochs, "
        f"{plan.trial_s:.0f} s each",
        f"         check:    {plan.check_seeds} fresh seed(s) on the test split, "
        f"{plan.check_s:.0f} s",
        f"         smallest gain one trial can tell from noise: "
        f"{points(plan.smallest_gain)} points"
        + (
            f"; the check: {points(plan.smallest_checked_gain)}"
            if plan.smallest_checked_gain
            else ""
        ),
    ]
    if plan.budget_s is not None and plan.total_s > 1.1 * plan.budget_s:
        lines.append(
            "         the smallest run that can tell anything takes longer than the budget here; "
            "it goes on regardless until the baseline and one architecture are compared"
        )
    if plan.wanted_trials > plan.n_trials:
        lines.append(
            f"         {plan.wanted_trials} trials do not fit in the budget even at the smallest "
            f"fidelity: {plan.n_trials} will run now, the same command goes on with the rest"
        )
    if n_done:
        lines.append(f"         {n_done} of {plan.n_trials} architectures are done already")
    return lines


def residual_line(residuals: Residuals) -> str:
    """Return how far measured latency ratios were from the table's predictions.

    Example:
        >>> from gcsearch.cost.table import describe_residuals
        >>> residual_line(describe_residuals([0.01, -0.03, 0.02]))
        '3 prediction(s) off by 0.020 in the median, -0.030 at worst'
    """
    return (
        f"{residuals.n} prediction(s) off by {residuals.median_absolute:.3f} in the median, "
        f"{residuals.worst:+.3f} at worst"
    )


def result_lines(result: SearchResult, study: SearchStudy) -> list[str]:
    """Return the verdict, what could be told from noise, and what to do next."""
    from gcsearch.results import measured_smallest_gain

    lines = confirmed_lines(result) if result.confirmed or result.is_complete else []
    smallest = measured_smallest_gain(result.findings)
    if smallest is not None:
        lines.append(
            f"power    one trial could tell gains from {points(smallest)} points on from noise"
        )
    if result.config_path is not None:
        lines.append(f"best     {result.config_path}")
    where = storage_words(result.storage)
    here = ["--study", result.study, *where]
    more = ["--trials", str(study.plan.n_trials + 10)]
    lines += [
        f"next     {shlex.join(['gcsearch', 'front', *here])}",
        f"         {shlex.join(['gcsearch', 'confirm', *here])}",
        f"         {shlex.join(['gcsearch', 'run', *here, *more])}",
        f"         {shlex.join(['gcsearch', 'dashboard', *where])}",
    ]
    return lines

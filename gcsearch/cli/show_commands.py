"""`gcsearch sites`, `backbones`, `status`, `front`: what there is, and what was found."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gcsearch.cli.options import (
    DEFAULT_STORAGE,
    JsonOption,
    StorageOption,
    StudyOption,
    TrustOption,
    open_study,
    print_json,
)

if TYPE_CHECKING:
    from gcsearch.results import SearchResult
    from gcsearch.surgery import Site

__all__ = ["backbones", "front", "result_to_dict", "sites", "status"]


def backbones(as_json: JsonOption = False) -> None:
    """List the torchvision models that can be searched.

    Example: gcsearch backbones
    """
    from gcsearch.backbones import backbone_names

    if as_json:
        print_json(backbone_names())
    else:
        print("\n".join(backbone_names()))


def sites(
    backbone: Annotated[
        str, typer.Argument(help="A torchvision model, timm:NAME or an import path.")
    ],
    patterns: Annotated[
        list[str] | None,
        typer.Option(
            "--sites",
            metavar="PATTERN",
            help="Show these only: a path with wildcards, kind:after-add, kind:before-add, "
            "kind:stage-end, stage:3, auto. Give it once for each.",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=8, help="Side of the pictures to probe with; the backbone's own if not."),
    ] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show where blocks may go in a backbone, with shapes and what the default GC would add.

    Example: gcsearch sites resnet50 --sites 'layer3.*' --sites kind:stage-end
    """
    from gcsearch.backbones import build_backbone, default_input_size
    from gcsearch.cli.tables import plain_table, stdout
    from gcsearch.space import select_sites
    from gcsearch.surgery import find_sites

    model = build_backbone(backbone, trust=trust)
    size = default_input_size(backbone, model)
    if image_size is not None:
        size = (*size[:-2], image_size, image_size)
    found = find_sites(model, size)
    if patterns:
        found = select_sites(found, patterns)
    entries = [_site_to_dict(site) for site in found]
    if as_json:
        print_json(entries)
        return
    rows = [
        [
            site.path,
            ", ".join(site.kinds),
            "" if site.stage is None else str(site.stage),
            "x".join(map(str, site.shape)),
            site.layout,
            *("-" if entry[k] is None else f"{entry[k]:,}" for k in ("gc_params", "gc_macs")),
        ]
        for site, entry in zip(found, entries, strict=True)
    ]
    columns = ["site", "kind", "stage", "shape", "layout", "GC params", "GC MACs"]
    stdout().print(plain_table(columns, rows, right=5))


def status(
    study: StudyOption = None,
    storage: StorageOption = DEFAULT_STORAGE,
    as_json: JsonOption = False,
) -> None:
    """Show what has run, is running and failed, and why.

    Example: gcsearch status
    """
    from gcsearch.cli.tables import confirmed_line, plain_table, residual_line, stdout
    from gcsearch.cost.table import describe_residuals
    from gcsearch.results import summarise
    from gcsearch.study import list_studies, measurements_of
    from gcsearch.study.storage import shown_url

    opened = open_study(storage, study)
    rows, plan = opened.rows(), opened.plan
    confirmed = summarise(opened, storage).confirmed if opened.baseline() else []
    measurements = measurements_of(opened.storage, opened.name)
    residuals = describe_residuals([measurement.residual for measurement in measurements])
    if as_json:
        print_json(
            {
                "study": opened.name,
                "studies": list_studies(opened.storage),
                "done": opened.n_done(),
                "planned": plan.n_trials,
                "objectives": [*opened.record.objectives],
                "residuals": asdict(residuals) if residuals else None,
                "confirmed": [confirmation.to_dict() for confirmation in confirmed],
                "trials": [_row_to_dict(row) for row in rows],
            }
        )
        return
    console = stdout()
    console.print(
        f"study    {opened.name} ({len(list_studies(opened.storage))} in {shown_url(storage)})\n"
        f"done     {opened.n_done()} of {plan.n_trials} architectures, "
        f"baseline {'done' if opened.baseline() else 'not done'}",
        soft_wrap=True,
        markup=False,
    )
    objective = opened.record.objective
    if confirmed:
        console.print(confirmed_line(confirmed), soft_wrap=True, markup=False)
    if residuals:
        console.print(f"table    {residual_line(residuals)}", soft_wrap=True, markup=False)
    table = [
        [str(row.number), row.state, str(row.architecture or "(waiting)"), _remark(row, objective)]
        for row in rows
    ]
    console.print(plain_table(["trial", "state", "architecture", ""], table))


def front(
    study: StudyOption = None,
    storage: StorageOption = DEFAULT_STORAGE,
    as_json: JsonOption = False,
) -> None:
    """Show the Pareto front against the baseline; the recommended trial is marked with a star.

    Example: gcsearch front --json
    """
    from gcsearch.cli.tables import confirmed_lines, front_table, stdout
    from gcsearch.results import summarise

    opened = open_study(storage, study)
    result = summarise(opened, storage)
    if as_json:
        print_json(result_to_dict(result))
        return
    console = stdout()
    console.print(front_table(result))
    for line in confirmed_lines(result):
        console.print(line, soft_wrap=True, markup=False)


def result_to_dict(result: SearchResult) -> dict[str, Any]:
    """Return plain data for ``--json``."""
    from gcsearch.study.storage import shown_url

    return {
        "study": result.study,
        "storage": shown_url(result.storage),
        "complete": result.is_complete,
        "objectives": ["top1", f"{result.objective}_ratio"],
        "best": result.best.to_dict() if result.best else None,
        "verdict": result.verdict,
        "confirmed": [confirmation.to_dict() for confirmation in result.confirmed],
        "checked": result.checked.to_dict() if result.checked else None,
        "config": str(result.config_path) if result.config_path else None,
        "front": [finding.to_dict() for finding in result.front],
        "trials": [finding.to_dict() for finding in result.findings],
    }


def _site_to_dict(site: Site) -> dict[str, Any]:
    from gcsearch.blocks import n_macs, n_params
    from gcsearch.errors import BlockError

    cost: tuple[int | None, int | None] = None, None
    with suppress(BlockError):  # too few channels for the default ratio
        cost = n_params("gc", site.channels), n_macs("gc", site.channels, site.positions)
    return {
        "path": site.path,
        "kinds": list(site.kinds),
        "stage": site.stage,
        "channels": site.channels,
        "shape": list(site.shape),
        "layout": site.layout,
        "gc_params": cost[0],
        "gc_macs": cost[1],
    }


def _row_to_dict(row: Any) -> dict[str, Any]:
    from gcsearch.cost import COUNTED

    evaluation = row.evaluation
    return {
        "trial": row.number,
        "state": row.state,
        "architecture": row.architecture.to_dict() if row.architecture else None,
        "id": row.architecture.id if row.architecture else None,
        "reason": row.reason,
        "duplicate_of": row.duplicate_of,
        "top1": evaluation.top1 if evaluation else None,
        "latency_ratio": evaluation.latency.ratio if evaluation else None,
        **{f"{c}_ratio": evaluation.cost_ratio(c) if evaluation else None for c in COUNTED},
    }


def _remark(row: Any, objective: Any) -> str:
    from gcsearch.cli.tables import costs_line

    if row.duplicate_of is not None:
        return f"same as trial {row.duplicate_of}"
    if row.evaluation is not None:
        return f"top1 {row.evaluation.top1:.3f}, {costs_line(row.evaluation, objective)}"
    return row.reason or ""

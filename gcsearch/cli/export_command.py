"""`gcsearch export`: take an architecture away as a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

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

__all__ = ["export"]


class Pick(StrEnum):
    """Rules to choose by."""

    best = "best"
    knee = "knee"
    fastest = "fastest"


class Format(StrEnum):
    """What can be written."""

    config = "config"
    weights = "weights"


def export(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="PATH", help="The YAML file to write.")
    ],
    study: StudyOption = None,
    storage: StorageOption = DEFAULT_STORAGE,
    pick: Annotated[
        Pick,
        typer.Option(
            help="Rule to choose by. best: the surest gain, confirmed if there is a confirmation; "
            "knee: of the front; fastest: the "
            "cheapest, by the study's objective, that is not worse than the baseline."
        ),
    ] = Pick.best,
    trial: Annotated[int | None, typer.Option(help="A trial's number, instead of a rule.")] = None,
    file_format: Annotated[
        Format,
        typer.Option("--format", help="config: YAML alone; weights: trained weights beside it."),
    ] = Format.config,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write an architecture as a config that `gcsearch.build` turns into a network again.

    With --format weights it is trained again exactly as in its trial, which takes as long.

    Example: gcsearch export --pick knee -o knee.yaml
    """
    from gcsearch.errors import ExportError
    from gcsearch.export.finding import export_finding
    from gcsearch.results import choose, rule_of, summarise
    from gcsearch.resume import evaluator_of

    if output.suffix not in (".yaml", ".yml"):
        raise ExportError(f"{str(output)!r} is not a .yaml file; weights are written beside it")
    weights_path = output.with_suffix(".safetensors")
    for path in (output, weights_path):
        if path.exists() and not force:
            raise ExportError(f"{path} exists already; pass --force to replace it")
    opened = open_study(storage, study)
    summary = summarise(opened, storage)
    confirmed = summary.confirmed
    finding = choose(summary.findings, pick, trial=trial, confirmed=confirmed, limit=summary.limit)
    rule = rule_of(finding, pick, trial=trial, confirmed=confirmed)
    model = None
    if file_format == Format.weights:
        evaluator = evaluator_of(opened, storage, trust=trust)
        typer.echo("training it again as in its trial ...", err=True)
        evaluation = finding.evaluation
        _, model = evaluator.evaluate(
            evaluation.architecture, opened.plan.trial, evaluation.seed, with_latency=False
        )
    export_finding(opened, finding, output, rule=rule, model=model)
    written = [str(output)] + ([str(weights_path)] if model is not None else [])
    if as_json:
        print_json({"written": written, "rule": rule, **finding.to_dict()})
        return
    print(f"{finding.evaluation.architecture}\n  {rule}\nwritten: {', '.join(written)}")
    print(f"rebuild: python -c 'import gcsearch; model = gcsearch.build(\"{output}\")'")

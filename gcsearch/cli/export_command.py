"""`gcsearch export`: take an architecture away as a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

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
    onnx = "onnx"
    torch_export = "torch-export"
    mmdet = "mmdet"
    timm = "timm"
    snippet = "snippet"


def export(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="PATH", help="The file to write.")
    ],
    study: StudyOption = None,
    storage: StorageOption = DEFAULT_STORAGE,
    pick: Annotated[
        Pick | None,
        typer.Option(
            help="Rule to choose by, best by default. best: the surest gain, a confirmed one if "
            "there is a confirmation; knee: of the front; fastest: the cheapest, by the study's "
            "objective, that is not worse than the baseline."
        ),
    ] = None,
    trial: Annotated[int | None, typer.Option(help="A trial's number, instead of a rule.")] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Convert an exported .yaml or .safetensors file, instead of a study's trial.",
        ),
    ] = None,
    file_format: Annotated[
        Format,
        typer.Option(
            "--format",
            help="config: YAML alone; weights: trained weights and a model card beside it; onnx, "
            "torch-export: a .onnx or .pt2 file; mmdet, timm: Python in their grammar; snippet: "
            "Python that needs torch and torchvision alone.",
        ),
    ] = Format.config,
    with_weights: Annotated[
        bool,
        typer.Option(
            "--with-weights",
            help="Write trained weights beside the file of any format, in that format's names.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write an architecture as a file that rebuilds the network, here or in another project.

    Where weights are needed it is trained again as in its trial, which takes as long; with
    --from they are taken from the file. ONNX files and programs are compared with the network
    before they are kept; what mmdet or timm cannot say is refused.

    Example: gcsearch export --pick knee -o knee.yaml
    """
    from gcsearch.export.files import refuse_existing, write_files
    from gcsearch.export.formats import FORMATS, require_suffix

    require_suffix(output, file_format)
    form = FORMATS[file_format]()
    if source is None:
        config, finding, train = _of_study(study, storage, pick, trial, trust)
        is_trained = form.is_trained or with_weights
    else:
        _refuse_both(study, pick, trial)
        config, train, has_weights = _of_file(source, trust)
        finding, is_trained = None, has_weights and file_format != Format.config
        if (form.is_trained or with_weights) and not has_weights:
            _refuse_without_weights(source)
        is_trained = is_trained or with_weights
    form.check(config)
    refuse_existing(form.paths(output, with_weights=is_trained), force=force)
    model = train() if is_trained else None
    paths = write_files(form.render(config, model, output), force=force)
    _show(config, finding, file_format, [str(path) for path in reversed(paths)], as_json)


def _of_study(
    name: str | None, storage: str, pick: Pick | None, trial: int | None, trust: bool
) -> tuple[Any, Any, Any]:
    """Return a trial's config, what was found of it, and what trains it again."""
    from gcsearch.export.finding import config_of
    from gcsearch.results import choose, rule_of, summarise
    from gcsearch.resume import evaluator_of

    opened = open_study(storage, name)
    summary = summarise(opened, storage)
    wanted, confirmed = pick or Pick.best, summary.confirmed
    finding = choose(
        summary.findings, wanted, trial=trial, confirmed=confirmed, limit=summary.limit
    )
    rule = rule_of(finding, wanted, trial=trial, confirmed=confirmed)

    def train() -> Any:
        evaluator = evaluator_of(opened, storage, trust=trust)
        typer.echo("training it again as in its trial ...", err=True)
        found = finding.evaluation
        again, model = evaluator.evaluate(
            found.architecture, opened.plan.trial, found.seed, with_latency=False
        )
        if again.correct != found.correct:
            typer.echo(
                f"note: rounding differs from that of the trial: top1 {again.top1:.3f} instead of "
                f"{found.top1:.3f}; the config tells the trial's",
                err=True,
            )
        return model

    return config_of(opened, finding, rule=rule, confirmed=confirmed), finding, train


def _of_file(source: Path, trust: bool) -> tuple[Any, Any, bool]:
    """Return an exported config, what builds it, and whether it has weights."""
    from gcsearch.export import build, read_config

    config = read_config(source)
    has_weights = config.weights is not None or source.suffix == ".safetensors"
    return config, lambda: build(source, trust=trust), has_weights


def _refuse_both(study: str | None, pick: Pick | None, trial: int | None) -> None:
    from gcsearch.errors import ConfigError

    given = {"--study": study, "--pick": pick, "--trial": trial}
    for option, value in given.items():
        if value is not None:
            raise ConfigError(
                [f"{option} chooses from a study; leave it out, or --from"], "export"
            )


def _refuse_without_weights(source: Path) -> None:
    from gcsearch.errors import ExportError

    raise ExportError(f"{source} has no weights; make it by `gcsearch export --format weights`")


def _show(config: Any, finding: Any, file_format: str, written: list[str], as_json: bool) -> None:
    rule = config.provenance.get("rule")
    if as_json:
        architecture = config.architecture.to_dict()
        found = finding.to_dict() if finding else {"architecture": architecture}
        print_json({"written": written, "format": file_format, "rule": rule, **found})
        return
    print(f"{config.architecture}\n  {rule}\nwritten: {', '.join(written)}")
    if file_format in (Format.config, Format.weights):
        print(f"rebuild: python -c 'import gcsearch; model = gcsearch.build(\"{written[0]}\")'")

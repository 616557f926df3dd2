"""`gcsearch latency`: time an exported network, or a study's front, here and now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcsearch.cli.options import (
    DEFAULT_STORAGE,
    JsonOption,
    StorageOption,
    TrustOption,
    open_study,
    print_json,
)

if TYPE_CHECKING:
    from gcsearch.cost import LatencyRatio, LatencySettings
    from gcsearch.timing import ExportTiming, FrontTiming, Retimed

__all__ = ["latency"]


def latency(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="An exported YAML file.")
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="eager, compile, onnxruntime, openvino or cuda-graph. [eager]"),
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(metavar="N", help="Pictures in one pass; several as 1,16. [1]"),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--vs", metavar="CONFIG2", help="Another export, instead of the backbone."),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the pictures. [224]")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads. [every core]")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any value of the section latency, e.g. dtype=bf16."
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Time this study's front instead of a CONFIG."),
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Draw the paired samples: .png, .svg or .pdf."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing picture.")] = False,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Time an exported network against its backbone, alone on this machine.

    With --study the front of a study is timed again, e.g. in the runtime that will serve, and it
    is told how far the order stays the same.

    Example: gcsearch latency best.yaml --runtime onnxruntime --batch 1,16
    """
    given = {"runtime": runtime, "image_size": image_size, "threads": threads}
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    overrides += settings or []
    sizes = [size for text in batch or [] for size in text.split(",")]
    _refuse_mixture(config, study, against, plot)
    if config is None:
        _time_front(study or "", storage, overrides, sizes, trust, as_json)
    else:
        _time_export(config, against, overrides, sizes, plot, force, trust, as_json)


def _refuse_mixture(
    config: Path | None, study: str | None, against: Path | None, plot: Path | None
) -> None:
    if (config is None) == (study is None):
        raise typer.BadParameter("name either an exported CONFIG or a --study")
    if study is not None and (against or plot):
        raise typer.BadParameter("--vs and --plot go with a CONFIG, not with --study")


def _time_export(
    config: Path,
    against: Path | None,
    overrides: list[str],
    sizes: list[str],
    plot: Path | None,
    force: bool,
    trust: bool,
    as_json: bool,
) -> None:
    from gcsearch.pictures import check_picture_path, write_picture
    from gcsearch.timing import draw_times, time_export

    wanted = [_settings([*overrides, f"batch_size={size}"]) for size in sizes or ["1"]]
    if plot:
        check_picture_path(plot, force=force)
    timings: list[ExportTiming] = []
    try:
        for each in wanted:
            timings.append(time_export(config, each, against=against, trust=trust))
    finally:  # what was measured before a batch failed, or was interrupted, is told
        if timings:
            _print_timings(timings, as_json)
    if plot:
        write_picture(draw_times(timings), plot)
        typer.echo(f"written: {plot}", err=as_json)


def _time_front(
    study: str,
    storage: str,
    overrides: list[str],
    sizes: list[str],
    trust: bool,
    as_json: bool,
) -> None:
    from gcsearch.config import load_config
    from gcsearch.results import findings, front
    from gcsearch.resume import evaluator_of
    from gcsearch.timing import FrontTiming, time_front

    if len(sizes) > 1:
        raise typer.BadParameter("--study takes one --batch")
    opened = open_study(storage, study)
    own = load_config(opened.record.config).latency.model_dump(exclude={"limit"})
    settings = _settings([*overrides, *(f"batch_size={size}" for size in sizes)], own)
    kept = front(findings(opened))
    evaluator = evaluator_of(opened, storage, trust=trust)
    done: list[Retimed] = []

    def heard(row: Retimed) -> None:
        done.append(row)
        typer.echo(f"trial {row.finding.number}: {row.latency}", err=True)

    try:
        time_front(kept, evaluator, settings, heard=heard)
    finally:  # what was measured before one failed, or was interrupted, is told
        if done:
            _print_front(FrontTiming(settings, done), as_json)


def _print_front(timing: FrontTiming, as_json: bool) -> None:
    from gcsearch.cli.tables import plain_table, stdout

    if as_json:
        print_json(timing.to_dict())
        return
    rows = [
        [
            str(row.finding.number),
            str(row.finding.evaluation.architecture).replace("; ", "\n"),
            f"{row.finding.latency.value:.3f}",
            str(row.latency),
        ]
        for row in timing.rows
    ]
    columns = ["trial", "architecture", "in the study", f"in {timing.settings.runtime}"]
    stdout().print(plain_table(columns, rows, right=2))
    if timing.agreement is None:
        print("too few conclusive architectures for an agreement of ranks")
    else:
        agreement = ", ".join(f"{name} {value:.2f}" for name, value in timing.agreement.items())
        print(f"agreement of the two orders: {agreement}")


def _settings(overrides: list[str], own: dict[str, object] | None = None) -> LatencySettings:
    """Return the settings, with all faults told at once."""
    from gcsearch.config import load_config

    return load_config({"latency": own or {}}, [f"latency.{text}" for text in overrides]).latency


def _print_timings(timings: list[ExportTiming], as_json: bool) -> None:
    from gcsearch.cli.tables import plain_table, stdout

    if as_json:
        print_json([timing.to_dict() for timing in timings])
        return
    columns = ["batch", "latency ratio", "p50, ms", "p90, ms", "rounds", "noise"]
    print(f"{timings[0].config} against {timings[0].against}")
    stdout().print(plain_table(columns, [_row(timing) for timing in timings], right=2))
    _print_environment(timings[0])
    for timing in timings:
        _warn(timing.latency)


def _row(timing: ExportTiming) -> list[str]:
    measured = timing.latency
    noise = measured.noise or (1.0, 1.0, 1.0)
    return [
        str(timing.settings.batch_size),
        str(measured).partition(" (")[0],
        f"{measured.latency_ms:.2f} ({measured.baseline_ms:.2f})",
        f"{measured.latency_p90_ms:.2f} ({measured.baseline_p90_ms:.2f})",
        str(measured.pairs),
        f"{noise[0]:.3f} [{noise[1]:.3f}, {noise[2]:.3f}]",
    ]


def _print_environment(timing: ExportTiming) -> None:
    settings, where = timing.settings, timing.to_dict()["environment"]
    threads = settings.threads or where["cores"]
    print(
        f"{where['runtime']}, {settings.dtype}, {settings.memory_format}, "
        f"{settings.image_size} px, {threads} thread(s) on {where['processor']}; in brackets the "
        "opponent; noise is the opponent against itself"
    )


def _warn(measured: LatencyRatio) -> None:
    if not measured.conclusive:
        typer.echo(f"inconclusive: {measured.reason}", err=True)

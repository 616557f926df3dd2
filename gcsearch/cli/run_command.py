"""`gcsearch run`: search, or go on with a search."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from gcsearch.cli.options import (
    DEFAULT_STORAGE,
    INTERRUPTED,
    JsonOption,
    RayOption,
    StorageOption,
    TrustOption,
    parse_duration,
    stop_by_sigterm,
    storage_words,
)

__all__ = ["run"]


def run(
    backbone: Annotated[
        str | None,
        typer.Option(help="A torchvision classifier, or package.module:function. [resnet50]"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A search configuration in YAML.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="cued-digits, torchvision:NAME, imagefolder:DIR, npz:FILE or an import path. "
            "[cued-digits]",
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Architectures to evaluate.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Trials trained at the same time. [1]")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the study; one that exists goes on."),
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="For the whole run: 90s, 15m, 2h. [15m]")
    ] = None,
    ray_address: RayOption = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is drawn. [0]")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the configuration."),
    ] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Search a backbone's insertions: train, time and compare them, and export the best.

    Stop it at any moment; the same command goes on from the database.

    Example: gcsearch run --backbone resnet50 --budget 15m
    """
    overrides = [
        f"{key}={value}"
        for key, value in {
            "backbone": _quoted(backbone),
            "data.source": _quoted(data),
            "plan.trials": trials,
            "plan.budget_s": None if budget is None else parse_duration(budget),
            "search.workers": workers,
            "search.seed": seed,
        }.items()
        if value is not None
    ] + (settings or [])
    stop_by_sigterm()
    _search(config, overrides, study, storage, ray_address, trust, as_json)


def _search(
    file: Path | None,
    overrides: list[str],
    study: str | None,
    storage: str,
    ray_address: str | None,
    trust: bool,
    as_json: bool,
) -> None:
    from rich.console import Console

    from gcsearch.cli.options import open_study, print_json
    from gcsearch.cli.progress import Progress
    from gcsearch.cli.show_commands import result_to_dict
    from gcsearch.cli.tables import front_table, result_lines, stdout
    from gcsearch.config import load_config
    from gcsearch.resume import default_study_name, stored_config
    from gcsearch.run import search
    from gcsearch.study.storage import shown_url

    config = load_config(file, overrides)
    if study and not file and (stored := stored_config(study, storage)):
        config = load_config(stored.to_dict(), overrides)
    name = study or default_study_name(config)
    resume = _resume_command(name, storage, trust)
    console = Console(stderr=True, highlight=False) if as_json else stdout()
    header = [f"study    {name} in {shown_url(storage)}", f"resume   {resume}"]
    try:
        with Progress(console, header, config.search.objective) as progress:
            result = search(
                config,
                study=name,
                storage=storage,
                ray_address=ray_address,
                trust=trust,
                listener=progress,
            )
    except KeyboardInterrupt:
        typer.echo(f"interrupted; to go on: {resume}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(result_to_dict(result))
    elif result.findings:
        opened = open_study(storage, name)
        console.print(front_table(result))
        for line in result_lines(result, opened):
            console.print(line, soft_wrap=True, markup=False)
    if not result.is_complete:
        typer.echo(f"interrupted; to go on: {resume}", err=True)
        raise typer.Exit(INTERRUPTED)


def _quoted(text: str | None) -> str | None:
    import json

    return None if text is None else json.dumps(text)


def _resume_command(name: str, storage: str, trust: bool) -> str:
    words = ["gcsearch", "run", "--study", name, *storage_words(storage)]
    return shlex.join([*words, *(["--trust"] if trust else [])])

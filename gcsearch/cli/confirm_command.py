"""`gcsearch confirm`: the front again on fresh seeds, and which gains hold."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from gcsearch.cli.options import (
    DEFAULT_STORAGE,
    INTERRUPTED,
    JsonOption,
    RayOption,
    StorageOption,
    StudyOption,
    TrustOption,
    open_study,
    parse_duration,
    print_json,
    stop_by_sigterm,
    storage_words,
)

__all__ = ["confirm"]


def confirm(
    study: StudyOption = None,
    storage: StorageOption = DEFAULT_STORAGE,
    seeds: Annotated[
        int, typer.Option(metavar="N", help="Fresh seeds of each architecture, at least 2.")
    ] = 5,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Begin no more that would end after 90s, 15m, 2h. [no limit]"
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Trainings at a time. [as in the search]")
    ] = None,
    ray_address: RayOption = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train the front again on fresh seeds, score it on the test split, and tell which gains hold.

    With the front go the baseline and every trial that is not beaten by more than noise: the upper
    end of its gain reaches the highest gain on the front at its cost or below. All are trained as
    in the search, compared by seed and picture, and timed anew. What is done already, also by the
    check at the end of a run, is not done again; stop it at any moment, the same command goes on.

    Example: gcsearch confirm --seeds 5 --budget 30m
    """
    budget_s = None if budget is None else parse_duration(budget)
    stop_by_sigterm()
    opened = open_study(storage, study)
    resume = _resume_command(opened.name, storage, seeds, workers, ray_address, trust)
    try:
        result = _confirm(
            opened,
            storage,
            resume,
            as_json,
            seeds=seeds,
            budget_s=budget_s,
            workers=workers,
            ray_address=ray_address,
            trust=trust,
        )
    except KeyboardInterrupt:
        result = None
    if result is None or not result.is_complete:
        typer.echo(f"interrupted; to go on: {resume}", err=True)
        raise typer.Exit(INTERRUPTED)


def _confirm(opened: Any, storage: str, resume: str, as_json: bool, **wanted: Any) -> Any:
    from rich.console import Console

    from gcsearch.cli.progress import Progress
    from gcsearch.cli.show_commands import result_to_dict
    from gcsearch.cli.tables import confirmed_lines, confirmed_table, stdout
    from gcsearch.confirm import confirm as confirm_study
    from gcsearch.study.storage import shown_url

    console = Console(stderr=True, highlight=False) if as_json else stdout()
    header = [f"study    {opened.name} in {shown_url(storage)}", f"resume   {resume}"]
    with Progress(console, header, opened.record.objective) as progress:
        result = confirm_study(opened, storage, listener=progress, **wanted)
    if as_json:
        print_json(result_to_dict(result))
        return result
    if result.confirmed:
        console.print(confirmed_table(result))
    for line in confirmed_lines(result):
        console.print(line, soft_wrap=True, markup=False)
    export = ["gcsearch", "export", "--study", opened.name, *storage_words(storage)]
    line = shlex.join([*export, "--format", "weights", "-o", "best.yaml"])
    console.print(f"export   {line}", soft_wrap=True, markup=False)
    return result


def _resume_command(
    name: str,
    storage: str,
    seeds: int,
    workers: int | None,
    ray_address: str | None,
    trust: bool,
) -> str:
    words = ["gcsearch", "confirm", "--study", name, "--seeds", str(seeds)]
    words += [] if workers is None else ["--workers", str(workers)]
    words += [] if ray_address is None else ["--ray-address", ray_address]
    return shlex.join([*words, *storage_words(storage), *(["--trust"] if trust else [])])

"""`gcsearch train`: train an architecture to its end, or go on with its training."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcsearch.cli.options import JsonOption, TrustOption, print_json, stop_by_sigterm

if TYPE_CHECKING:
    from gcsearch.training import Trained

__all__ = ["train"]

INTERRUPTED = 130
CACHE = Path("storage") / "cache"
"""Where `gcsearch run` keeps decoded pictures by default, so that they are decoded once."""


class Precision(StrEnum):
    """Arithmetic of training."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def train(
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="cued-digits, torchvision:NAME, imagefolder:DIR, npz:FILE or an import path.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write.")
    ],
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="An exported .yaml or .safetensors file."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Instead of CONFIG: a backbone, trained unaltered."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Times each picture is seen. [100]")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Pictures in a step of all processes together. [128]")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the pictures in pixels. [the CONFIG's]")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate. [AdamW 0.001, SGD 0.1]")
    ] = None,
    augment: Annotated[
        bool | None,
        typer.Option(
            "--augment/--no-augment",
            help="Random resized crops and mirroring. [where the data keep their label so]",
        ),
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Arithmetic of training. [auto]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is drawn. [0]")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, e.g. optimizer=sgd."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Delete another training in the folder.")
    ] = False,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train an exported architecture to its end, and export its best epoch with the weights.

    Stop it at any moment; the same command goes on after the last whole epoch. For several
    processes: torchrun --nproc-per-node 2 -m gcsearch train ...

    Example: gcsearch train best.yaml --data imagefolder:photos/ --epochs 100 -o trained/
    """
    given = {
        "data.source": data,
        "epochs": epochs,
        "batch_size": batch_size,
        "image_size": image_size,
        "lr": lr,
        "augment": augment,
        "precision": precision,
        "seed": seed,
    }
    overrides = [f"{key}={json.dumps(v)}" for key, v in given.items() if v is not None]
    stop_by_sigterm()
    _train(config, backbone, overrides + (settings or []), output, force, trust, as_json)


def _train(
    config: Path | None,
    backbone: str | None,
    overrides: list[str],
    output: Path,
    force: bool,
    trust: bool,
    as_json: bool,
) -> None:
    from rich.console import Console

    from gcsearch.cli.tables import stdout
    from gcsearch.cli.training_progress import TrainingProgress
    from gcsearch.config import check_settings
    from gcsearch.training import FullTrainingSettings, train
    from gcsearch.training.processes import is_first

    checked = check_settings(FullTrainingSettings, {}, overrides, "train")
    console = Console(stderr=True, highlight=False) if as_json else stdout()
    try:
        with TrainingProgress(console) as progress:
            trained = train(
                config,
                checked,
                output,
                backbone=backbone,
                force=force,
                trust=trust,
                cache_dir=CACHE,
                listener=progress,
            )
    except KeyboardInterrupt:
        if is_first():
            typer.echo("interrupted; the same command goes on (without --force)", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if is_first():
        print_json(trained.to_dict()) if as_json else _show(trained)


def _show(trained: Trained) -> None:
    best, test = trained.best, trained.test
    print(f"best     epoch {best.epoch}  val top1 {best.val.top1:.4f}  top5 {best.val.top5:.4f}")
    print(
        f"test     top1 {test.top1:.4f}  top5 {test.top5:.4f}  ({test.n_pictures} pictures, once)"
    )
    weights = trained.config_path.with_suffix(".safetensors")
    print(f"written: {trained.config_path}, {weights}")
    print(
        f"rebuild: python -c 'import gcsearch; model = gcsearch.build(\"{trained.config_path}\")'"
    )

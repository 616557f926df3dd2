"""`gcsearch explain`: what the blocks of an exported network attend to, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcsearch.cli.options import JsonOption, TrustOption, print_json

if TYPE_CHECKING:
    from gcsearch.explain import Explained

__all__ = ["explain"]


def explain(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="An exported YAML file.")],
    image: Annotated[
        list[Path], typer.Option(metavar="FILE", help="A picture; give it once for each.")
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="PATH", help="The .png, .svg or .pdf to write."),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw which positions the blocks of an exported network attend to, over your pictures.

    Blocks without a map of their own (SE, GC with avg pooling) are named, not drawn.

    Example: gcsearch explain best.yaml --image cat.jpg -o maps.png
    """
    from gcsearch.cli.tables import plain_table, stdout
    from gcsearch.explain import draw
    from gcsearch.explain import explain as look
    from gcsearch.pictures import check_picture_path, write_picture

    check_picture_path(output, force=force)
    found = look(config, image, trust=trust)
    if not found.has_weights:
        cure = "export it with --format weights"
        typer.echo(
            f"warning: {config} has no weights, so its maps are arbitrary; {cure}", err=True
        )
    write_picture(draw(found), output)
    if as_json:
        entries = [entry.to_dict() for entry in found.insertions]
        print_json(
            {
                "written": [str(output)],
                "has_weights": found.has_weights,
                "images": [str(path) for path in image],
                "insertions": entries,
            }
        )
        return
    columns = ["insertion", "positions", "entropy", "distance", ""]
    stdout().print(plain_table(columns, [_row(entry) for entry in found.insertions]))
    print(f"written: {output}")


def _row(entry: Explained) -> list[str]:
    numbers = [entry.entropy, entry.cosine_distance]
    return [
        str(entry.insertion),
        entry.attention.size if entry.attention else "",
        *("" if number is None else f"{number:.3f}" for number in numbers),
        entry.reason,
    ]

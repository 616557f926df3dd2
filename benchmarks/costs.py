"""What blocks add to ResNet-50, computed by the library: the table in `docs/measurements.md`.

Parameters are counted in the altered network, multiply-accumulates (MACs) of one picture of
224 px by the closed formulas of `gcsearch.blocks.costs`, at the places the GCNet paper uses: c3,
c4 and c5 are the outputs of the residual blocks of `layer2`, `layer3` and `layer4`.

    python benchmarks/costs.py            # print the table
    python benchmarks/costs.py --write    # put it into docs/measurements.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
import torchvision
from torch import nn

from gcsearch import Insertion, Site, find_sites, insert, remove
from gcsearch.blocks import n_macs
from gcsearch.cost import count

DOCUMENT = Path(__file__).parents[1] / "docs" / "measurements.md"
BEGIN, END = "<!-- costs: begin -->", "<!-- costs: end -->"
RATIOS = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
PLACES: dict[str, Callable[[Site], bool]] = {
    "c3": lambda site: site.stage == 2,
    "c4": lambda site: site.stage == 3,
    "c5": lambda site: site.stage == 4,
    "c3-c5": lambda site: site.stage in (2, 3, 4),
    "all": lambda site: True,
    "last of c4": lambda site: site.path == "layer3.5",
}
ROWS: list[tuple[str, str, dict[str, float]]] = [
    *((place, "gc", {"ratio": ratio}) for place in list(PLACES)[:5] for ratio in RATIOS),
    *(("last of c4", block, {}) for block in ("gc", "se", "snl", "nl")),
    *(("c4", block, {}) for block in ("se", "snl", "nl")),
]


@cache
def backbone() -> tuple[nn.Module, list[Site]]:
    """Return ResNet-50 and the outputs of its residual blocks."""
    model = torchvision.models.resnet50(weights=None)
    return model, [site for site in find_sites(model) if site.kind == "after-add"]


def added(sites: Sequence[Site], block: str, settings: dict[str, float]) -> tuple[int, int]:
    """Return the parameters and MACs that a block at each of the sites adds."""
    model, every = backbone()
    before = sum(p.numel() for p in model.parameters())
    insert(model, [Insertion(site.path, block, **settings) for site in sites], sites=every)
    after = sum(p.numel() for p in model.parameters())
    remove(model)
    macs = sum(n_macs(block, site.channels, site.positions, **settings) for site in sites)
    return after - before, macs


def table() -> str:
    """Return the table in Markdown."""
    model, sites = backbone()
    whole = count(model)
    lines = [
        f"ResNet-50 itself: {whole.params:,} parameters, {whole.macs:,} MACs.",
        "",
        "| where | blocks | parameters added | MACs added |",
        "|---|---|---|---|",
    ]
    for place, block, settings in ROWS:
        chosen = [site for site in sites if PLACES[place](site)]
        params, macs = added(chosen, block, settings)
        ratio = f" r1/{1 / settings['ratio']:.0f}" if "ratio" in settings else ""
        ratio = ratio or (" r1/16" if block in ("gc", "se") else "")
        share = f"{params:,} ({100 * params / whole.params:.2f} %)"
        lines.append(
            f"| {place} | {len(chosen)} x {block}{ratio} | {share} | "
            f"{macs:,} ({100 * macs / whole.macs:.3f} %) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into the document")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = table()
    if not options.write:
        print(text)
        return
    document = DOCUMENT.read_text()
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    DOCUMENT.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")


if __name__ == "__main__":
    main()

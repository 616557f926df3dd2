"""How long surgery takes: finding sites, inserting blocks, taking them out.

Prints medians over repeats for a backbone, with a GC block at the output of each residual block,
and once the search for sites in a large model.

    python benchmarks/surgery.py
    python benchmarks/surgery.py --backbone swin_t --largest vit_h_14
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torchvision

from gcsearch import Insertion, find_sites, insert, remove
from gcsearch.machine import environment
from gcsearch.space import select_sites


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and the processor milliseconds of an action."""
    wall, processor = time.perf_counter(), time.process_time()
    action()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor)


def show(name: str, samples: list[tuple[float, float]]) -> None:
    """Print medians and the longest wall time."""
    wall, processor = (statistics.median(column) for column in zip(*samples, strict=True))
    longest = max(sample[0] for sample in samples)
    print(f"{name:<34} wall {wall:8.1f} ms (most {longest:.1f}), processor {processor:8.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--largest", default="vit_h_14", help="'' leaves it out")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    print(json.dumps(environment()))
    model = torchvision.models.get_model(options.backbone, weights=None)
    show(
        f"find_sites of {options.backbone}",
        [timed(lambda: find_sites(model)) for _ in range(options.repeats)],
    )
    sites = find_sites(model)
    insertions = [Insertion(site.path) for site in select_sites(sites, ["auto"])]
    inserting, removing = [], []
    for _ in range(options.repeats):
        inserting.append(timed(lambda: insert(model, insertions, sites=sites)))
        removing.append(timed(lambda: remove(model)))
    show(f"insert {len(insertions)} GC blocks", inserting)
    show("remove them", removing)
    if options.largest:
        largest = torchvision.models.get_model(options.largest, weights=None)
        show(f"find_sites of {options.largest}", [timed(lambda: find_sites(largest))])


if __name__ == "__main__":
    main()

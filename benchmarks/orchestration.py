"""What a search costs beside its measuring: wall time of trials less training and timing.

Reads a finished study; the time of a trial runs from the end of the one before to its
own end, so that asking, telling and handing over are counted.

    python benchmarks/orchestration.py --study NAME
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import optuna

from gcsearch.study import SearchStudy, newest_study, open_storage
from gcsearch.study.attributes import read_attrs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--storage", default="sqlite:///storage/gcsearch.db")
    parser.add_argument("--study", default=None)
    options = parser.parse_args()
    storage = open_storage(options.storage, create=False)
    study = SearchStudy(storage, options.study or newest_study(storage) or "")
    trials = optuna.load_study(study_name=study.name, storage=storage).get_trials()
    ended = [t for t in trials if t.datetime_complete and read_attrs(t).get("evaluation")]
    overheads = []
    for before, trial in itertools.pairwise(ended):
        wall = (trial.datetime_complete - before.datetime_complete).total_seconds()
        seconds = read_attrs(trial)["evaluation"]["seconds"]
        overheads.append(wall - seconds["training"] - seconds["latency"])
        print(
            f"trial {trial.number:<3} wall {wall:6.2f} s  training {seconds['training']:6.2f}  "
            f"latency {seconds['latency']:5.2f}  beside {overheads[-1]:5.2f}"
        )
    if overheads:
        median = np.median(overheads)
        print(f"beside the measuring, after the first trial: median {median:.2f} s a trial")


if __name__ == "__main__":
    main()

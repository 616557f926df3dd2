"""Ray Tune as the engine of a search: the driver that asks and tells, the workers that evaluate.

The only room that imports ray.
"""

from gcsearch.search.driver import run_trials
from gcsearch.search.events import Listener
from gcsearch.search.foresight import Foresight, build_table, n_missing

__all__ = ["Foresight", "Listener", "build_table", "n_missing", "run_trials"]

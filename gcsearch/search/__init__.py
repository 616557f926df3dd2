"""Ray Tune as the engine of a search: the driver that asks and tells, the workers that evaluate.

The only room that imports ray.
"""

from gcsearch.search.driver import run_trials
from gcsearch.search.events import Listener

__all__ = ["Listener", "run_trials"]

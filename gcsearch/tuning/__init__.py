"""Ray Tune as the engine of a search: the driver that asks and tells, the workers that evaluate.

The only room that imports ray.
"""

from gcsearch.tuning.checks import Check, check_here, owed_checks
from gcsearch.tuning.driver import run_checks, run_trials
from gcsearch.tuning.events import Listener, listen_together
from gcsearch.tuning.foresight import Foresight, build_table, table_work

__all__ = [
    "Check",
    "Foresight",
    "Listener",
    "build_table",
    "check_here",
    "listen_together",
    "owed_checks",
    "run_checks",
    "run_trials",
    "table_work",
]

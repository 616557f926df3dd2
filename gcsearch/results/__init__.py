"""What a study found: its front against the baseline, the choice, the check on fresh seeds."""

from gcsearch.results.check import CheckedGain, checked_gain, run_check
from gcsearch.results.front import (
    PICKS,
    Finding,
    candidate_of,
    choose,
    findings,
    front,
    measured_smallest_gain,
)
from gcsearch.results.summary import SearchResult, summarise

__all__ = [
    "PICKS",
    "CheckedGain",
    "Finding",
    "SearchResult",
    "candidate_of",
    "checked_gain",
    "choose",
    "findings",
    "front",
    "measured_smallest_gain",
    "run_check",
    "summarise",
]

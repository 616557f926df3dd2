"""What a study found: its front against the baseline, the choice, the gains on fresh seeds."""

from gcsearch.results.choice import PICKS, candidate_of, choose, rule_of
from gcsearch.results.confirmation import LEAST_SEEDS, Confirmation, confirmations
from gcsearch.results.front import (
    Finding,
    findings,
    front,
    measured_smallest_gain,
    near_front,
)
from gcsearch.results.summary import SearchResult, summarise

__all__ = [
    "LEAST_SEEDS",
    "PICKS",
    "Confirmation",
    "Finding",
    "SearchResult",
    "candidate_of",
    "choose",
    "confirmations",
    "findings",
    "front",
    "measured_smallest_gain",
    "near_front",
    "rule_of",
    "summarise",
]

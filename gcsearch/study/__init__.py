"""The SQL side of a search: one Optuna study, opened, asked, told and read."""

from gcsearch.study.asking import Proposal
from gcsearch.study.attempts import Attempt, attempts_of, baseline_hash, sites_of
from gcsearch.study.latency_store import LatencyStore, measurements_of
from gcsearch.study.record import StudyRecord, TrialRow
from gcsearch.study.search_study import SearchStudy
from gcsearch.study.storage import list_studies, newest_study, open_storage

__all__ = [
    "Attempt",
    "LatencyStore",
    "Proposal",
    "SearchStudy",
    "StudyRecord",
    "TrialRow",
    "attempts_of",
    "baseline_hash",
    "list_studies",
    "measurements_of",
    "newest_study",
    "open_storage",
    "sites_of",
]

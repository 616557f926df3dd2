"""The one place where the parts meet: an architecture and a fidelity in, an evaluation out."""

from gcsearch.evaluation.costs import Refusal, upper_ratios
from gcsearch.evaluation.evaluator import Evaluator
from gcsearch.evaluation.gauge import Timer
from gcsearch.evaluation.value import Evaluation, pack, unpack

__all__ = ["Evaluation", "Evaluator", "Refusal", "Timer", "pack", "unpack", "upper_ratios"]

"""What the database says of a study, as values; knows no SQL and no search."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import optuna

from gcsearch.architecture import Architecture
from gcsearch.cost import Cost, limits_by_cost
from gcsearch.evaluation import Evaluation, Evaluator
from gcsearch.machine import environment
from gcsearch.plan import Plan
from gcsearch.study.attributes import read_attrs

__all__ = ["DIRECTIONS", "StudyRecord", "TrialRow"]

DIRECTIONS: tuple[Literal["maximize"], Literal["minimize"]] = ("maximize", "minimize")
"""Of the objectives of every study: ``top1``, and one of the costs."""


@dataclass(frozen=True)
class StudyRecord:
    """What is fixed for a whole study, written before its first trial.

    Args:
        config: The search configuration as plain data, its precision resolved.
        plan: The plan as plain data; its number of trials may be raised later.
        task: Of the proxy task: name, classes, counts, normalisation, content hash, chance.
        environment: Versions and hardware of the machine that began.
        sites: Those that may hold a block, in order of execution; older studies lack them.
    """

    config: dict[str, Any]
    plan: dict[str, Any]
    task: dict[str, Any]
    environment: dict[str, Any]
    sites: list[dict[str, Any]] = field(default_factory=list)

    @property
    def objective(self) -> Cost:
        """The cost that is minimised; older studies know of latency alone."""
        cost: Cost = self.config["search"].get("objective", "latency")
        return cost

    @property
    def objectives(self) -> tuple[str, str]:
        """Names of the objectives, in the order of :data:`DIRECTIONS`."""
        return "top1", f"{self.objective}_ratio"

    @property
    def limits(self) -> dict[Cost, float]:
        """The limits that are set, in the order in which constraints are stored."""
        return limits_by_cost(self.config["latency"].get("limit"), self.config.get("limits", {}))

    @classmethod
    def of(cls, evaluator: Evaluator, plan: Plan) -> StudyRecord:
        """Describe the study that ``evaluator`` and ``plan`` begin."""
        config, task = evaluator.config, evaluator.task
        training = config.training.model_copy(update={"precision": evaluator.precision})
        return cls(
            config=config.model_copy(update={"training": training}).to_dict(),
            plan=plan.to_dict(),
            task={
                "name": task.name,
                "n_classes": task.n_classes,
                "class_names": list(task.class_names),
                "image_size": task.image_size[0],
                "n_train": len(task.train),
                "n_val": len(task.val),
                "n_test": len(task.test),
                "mean": list(task.mean),
                "std": list(task.std),
                "chance": task.chance,
                "guess": task.guess_top1,
                "content_hash": task.content_hash,
            },
            environment=environment(evaluator.device),
            sites=[asdict(site) for site in evaluator.space().sites],
        )


@dataclass(frozen=True)
class TrialRow:
    """One trial as the database has it.

    Args:
        number: The trial's number in the study.
        state: ``"COMPLETE"``, ``"RUNNING"``, ``"WAITING"``, ``"FAIL"`` or ``"PRUNED"``.
        architecture: What it evaluates; ``None`` while it waits.
        evaluation: What was measured, once complete.
        reason: Why it failed, or what became of it.
        retry: Whether a failed architecture may be proposed again.
        duplicate_of: Number of the trial whose values it repeats.
    """

    number: int
    state: str
    architecture: Architecture | None
    evaluation: Evaluation | None
    reason: str | None
    retry: bool
    duplicate_of: int | None

    @property
    def is_result(self) -> bool:
        """Whether it is a complete trial, and the only one of its architecture.

        An evaluation is stored before its trial ends, so that one alone says nothing.
        """
        is_original = self.state == "COMPLETE" and self.duplicate_of is None
        return is_original and self.evaluation is not None

    @property
    def counts(self) -> bool:
        """Whether it used up one of the planned trials: tried for good, and no baseline."""
        if self.architecture is None or self.architecture.is_baseline:
            return False
        is_original = self.state == "COMPLETE" and self.duplicate_of is None
        return is_original or (self.state == "FAIL" and not self.retry)

    @classmethod
    def from_optuna(cls, trial: optuna.trial.FrozenTrial) -> TrialRow:
        """Read one of Optuna's trials."""
        attrs = read_attrs(trial)
        architecture = attrs.get("architecture")
        evaluation = attrs.get("evaluation")
        return cls(
            number=trial.number,
            state=trial.state.name,
            architecture=Architecture.from_dict(architecture) if architecture else None,
            evaluation=Evaluation.from_dict(evaluation) if evaluation else None,
            reason=attrs.get("reason"),
            retry=bool(attrs.get("retry", False)),
            duplicate_of=attrs.get("duplicate_of"),
        )

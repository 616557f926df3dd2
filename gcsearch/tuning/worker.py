"""A worker: a Ray actor that evaluates one architecture after the other; it knows no database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray import tune

from gcsearch.architecture import Architecture
from gcsearch.config import SearchConfig
from gcsearch.cost import LatencyRatio
from gcsearch.errors import LatencyError, OverLimitError, TrainingError
from gcsearch.evaluation import Evaluation, Evaluator, Timer
from gcsearch.proxy.training import Epoch, Fidelity

__all__ = ["Worker", "WorkerContext"]


@dataclass(frozen=True)
class WorkerContext:
    """All that a worker must be told once; the same for every trial of a study.

    Args:
        config: The search, with its precision resolved.
        weights: Of the baseline, in safetensors form.
        fidelity: Of every trial.
        cache_dir: Where the proxy task is kept prepared.
        threads: Processor threads of one worker.
        trust: Whether import paths may be followed.
    """

    config: SearchConfig
    weights: bytes
    fidelity: Fidelity
    cache_dir: Path
    threads: int
    trust: bool


class Worker(tune.Trainable):  # type: ignore[misc]
    """Ray's view of a worker: one ``step`` is one epoch, and the last one brings the evaluation.

    The actor lives through many trials, since starting a process that imports torch costs seconds;
    every trial builds its model anew and seeds everything again, so nothing leaks from one to the
    next.
    """

    def setup(
        self,
        config: dict[str, Any],
        context: WorkerContext,
        measure: Timer | None = None,
    ) -> None:
        """Prepare what all trials share, then the first trial.

        Args:
            config: Of the first trial.
            context: Of all trials.
            measure: Has architectures timed elsewhere; by default they are timed here.
        """
        self._context = context
        self._evaluator = Evaluator(
            context.config,
            cache_dir=context.cache_dir,
            trust=context.trust,
            threads=context.threads,
            measure=measure,
        )
        self._evaluator.load_baseline(context.weights)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial, or a check of one, in the same process."""
        architecture = Architecture.from_dict(new_config["architecture"])
        evaluator, fidelity = self._evaluator, self._context.fidelity
        self._crash: Exception | None = None
        self._steps: Iterator[Epoch | tuple[Evaluation, object] | LatencyRatio]
        if "check_seed" not in new_config:  # a trial of the search
            self._steps = evaluator.steps(architecture, fidelity, self._context.config.search.seed)
        elif (seed := new_config["check_seed"]) is None:
            self._steps = map(evaluator.conclusive_latency, [architecture])
        else:
            self._steps = evaluator.steps(
                architecture, fidelity, seed, split=evaluator.task.test, with_latency=False
            )
        return True

    def step(self) -> dict[str, Any]:
        """Go on by one epoch; a failure that was foreseen is a result, any other is raised.

        The evaluation travels as text, since Tune flattens nested results on the way. Of an error
        Tune tells the searcher no more than that there was one, so it is announced by a result and
        raised in the next step.
        """
        if self._crash is not None:
            raise self._crash
        try:
            step = next(self._steps)
            if isinstance(step, Epoch) and step.number == self._context.fidelity.epochs:
                step = next(self._steps)
        except OverLimitError as error:
            return {"refusal": json.dumps(error.refusal), "done": True}
        except TrainingError as error:
            return {"failure": str(error), "retry": False, "done": True}
        except LatencyError as error:
            return {"failure": str(error), "retry": True, "done": True}
        except Exception as error:
            self._crash = error
            return {"crash": " ".join(f"{type(error).__name__}: {error}".split())}
        if isinstance(step, Epoch):
            return {"epoch": step.number, "top1": step.top1}
        if isinstance(step, LatencyRatio):
            return {"latency": json.dumps(asdict(step)), "done": True}
        return {"evaluation": json.dumps(step[0].to_dict()), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Keep nothing: a trial that is cut short begins again from the database."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Have nothing to load."""

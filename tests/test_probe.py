"""Timing on the node that is meant for it: one actor there, and whole searches that use it."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace

import pytest

from gcsearch.architecture import Architecture, Insertion
from gcsearch.config import load_config
from gcsearch.cost import LatencyRatio
from gcsearch.errors import ConfigError, LatencyError
from gcsearch.run import search
from gcsearch.tuning import Listener, probe
from gcsearch.tuning.probe import RESOURCE, Prober, start_prober, timed_by

RATIO = LatencyRatio(1.1, 1.0, 1.2, True, 2.0, 1.8, 30, 0.5, 2.2, 2.0, (1.0, 0.9, 1.1))
ARCHITECTURE = Architecture("tiny", (Insertion("a"),))
CONTEXT = SimpleNamespace(config=None, cache_dir=None, trust=False)


class FakeRay:
    """Runs an actor's calls at once, in this process."""

    def __init__(self, **resources):
        self.resources, self.asked = resources, None

    def cluster_resources(self):
        return self.resources

    def remote(self, **options):
        self.asked = options

        def start(context):
            actor = Prober(context)
            return SimpleNamespace(measure=SimpleNamespace(remote=actor.measure))

        return lambda kind: SimpleNamespace(remote=start)

    def get(self, result):
        return result


def evaluator_that(measure):
    return lambda config, **options: SimpleNamespace(measure_latency=measure)


def raising(architecture, precision):
    raise LatencyError("too noisy")


def test_prober_times_what_it_is_sent(monkeypatch):
    ray, sent = FakeRay(**{RESOURCE: 1.0}), []
    monkeypatch.setattr(probe, "ray", ray)
    evaluator = evaluator_that(lambda *told: sent.append(told) or RATIO)
    monkeypatch.setattr(probe, "Evaluator", evaluator)
    measure = timed_by(start_prober(CONTEXT))
    assert measure(ARCHITECTURE, 0.02) == RATIO and sent == [(ARCHITECTURE, 0.02)]
    assert ray.asked == {"num_cpus": 0, "resources": {RESOURCE: 1}}


def test_what_cannot_be_timed_there_is_the_same_error_here(monkeypatch):
    monkeypatch.setattr(probe, "ray", FakeRay(**{RESOURCE: 1.0}))
    monkeypatch.setattr(probe, "Evaluator", evaluator_that(raising))
    with pytest.raises(LatencyError, match=r"^too noisy$"):
        timed_by(start_prober(CONTEXT))(ARCHITECTURE)


def test_cluster_without_such_a_node_has_no_prober(monkeypatch):
    monkeypatch.setattr(probe, "ray", FakeRay(CPU=2.0))
    assert start_prober(CONTEXT) is None


def test_latency_table_of_another_machine_is_refused(tiny_config, tmp_path):
    config = load_config(tiny_config.to_dict(), ["search.latency_table=true"])
    with pytest.raises(ConfigError, match="would be timed on a cluster"):
        search(config, storage=f"sqlite:///{tmp_path}/s.db", ray_address="10.0.0.1:6379")


class Watching(Listener):
    """Remembers how much of the resource was free whenever a trial ended."""

    def __init__(self, ray):
        self.ray, self.free = ray, []

    def trial_finished(self, number, evaluation, reason):
        self.free.append(self.ray.available_resources().get(RESOURCE, 0))


@pytest.mark.slow
def test_search_on_a_cluster_times_on_its_probe(tiny_config, tmp_path):
    import ray

    ray.init(num_cpus=2, resources={RESOURCE: 1}, include_dashboard=False, log_to_driver=False)
    try:
        watching = Watching(ray)
        result = search(tiny_config, storage=f"sqlite:///{tmp_path}/s.db", listener=watching)
    finally:
        ray.shutdown()
    assert result.is_complete and watching.free == [0, 0, 0]
    assert all(asdict(f.evaluation.latency)["conclusive"] for f in result.findings)

"""Latency: what makes it a number, and what makes it none; no time is judged."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from conftest import EVERY_CORE
from hypothesis import given
from hypothesis import strategies as st
from small_nets import LOOSE, two_convolutions
from torch import nn

from gcsearch.config import load_config
from gcsearch.cost import (
    RUNTIMES,
    LatencyProbe,
    LatencyRatio,
    compare_latency,
    share_weights,
)
from gcsearch.cost import latency as module
from gcsearch.cost.disturbance import Disturbance, watched
from gcsearch.cost.latency import estimate
from gcsearch.cost.pairs import BLOCK_ROUNDS, n_blocks, paired_ratio, time_in_turn, warm_up
from gcsearch.cost.placement import Placement
from gcsearch.errors import ConfigError, LatencyError

pytestmark = pytest.mark.usefixtures("unshared_machine")
SIZE = (3, 16, 16)


@pytest.fixture
def undisturbed(monkeypatch):
    """Whatever else this machine does meanwhile, as while other tests run."""
    monkeypatch.setattr(module, "watched", lambda cores: nullcontext(Disturbance()))


class Clock:
    """A pass that takes what it is told, without taking it."""

    def __init__(self, *seconds):
        self.seconds, self.n_calls = seconds, 0

    def __call__(self):
        self.n_calls += 1
        return self.seconds[(self.n_calls - 1) % len(self.seconds)]


@given(st.floats(0.5, 2), st.floats(1e-4, 10), st.integers(2, 50))
def test_ratio_does_not_depend_on_how_fast_the_machine_is(ratio, speed, rounds):
    drift = np.linspace(1, 3, rounds)[:, None] * speed
    measured, noise = estimate(drift * np.array([[ratio, 1.0, 1.0]]))
    assert measured.value == pytest.approx(ratio) and noise.value == pytest.approx(1)


def test_ratio_is_between_those_to_either_run_of_the_backbone():
    measured, noise = estimate(np.array([[6.0, 1.0, 4.0]] * 5))
    assert (measured.value, noise.value) == pytest.approx((3, 4))


def test_contenders_run_once_a_round_in_an_order_that_changes():
    order = []
    contenders = [lambda i=i: order.append(i) or 1.0 + i for i in range(3)]
    times = time_in_turn(contenders, lambda t: len(t) >= 21, limit_s=60)
    rounds = [tuple(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert times.shape == (21, 3) and (times == [1, 2, 3]).all()
    assert all(sorted(each) == [0, 1, 2] for each in rounds) and len(set(rounds)) > 3


def test_before_each_block_something_is_renewed_and_what_it_left_cold_is_not_timed():
    log = []
    cold = itertools.cycle([True, *[False] * BLOCK_ROUNDS])
    contender = lambda: log.append("pass") or (9.0 if next(cold) else 1.0)  # noqa: E731
    times = time_in_turn(
        [contender], lambda t: n_blocks(t) >= 4, limit_s=60, renew=lambda: log.append("renew")
    )
    assert log == ["renew", *["pass"] * (1 + BLOCK_ROUNDS)] * 4
    assert (times == 1.0).all() and len(times) == 4 * BLOCK_ROUNDS


def test_whether_it_is_enough_is_asked_ever_more_rarely():
    asked = []
    time_in_turn([Clock(1.0)], lambda t: asked.append(len(t)) or len(t) >= 1000, limit_s=60)
    assert asked[:3] == [BLOCK_ROUNDS * n for n in (1, 2, 3)] and len(asked) < 60


def test_what_holds_for_a_block_only_widens_the_interval():
    rng = np.random.default_rng(0)
    noise = np.exp(0.002 * rng.normal(size=(100, 3)))
    blocks = np.repeat(np.exp(0.02 * rng.normal(size=50)), BLOCK_ROUNDS)[:100]
    shifted = noise.copy()
    shifted[:, 0] *= blocks
    narrow, wide = (paired_ratio(times, 0, [1, 2]) for times in (noise, shifted))
    assert wide.half_width > 5 * narrow.half_width


@pytest.mark.slow
def test_intervals_that_end_a_measurement_hold_the_truth():
    rng = np.random.default_rng(0)
    truth, n_measured, hits = math.log(1.02), 120, 0
    for _ in range(n_measured):
        drift = 0.0

        def passes(log_seconds):
            def seconds():
                nonlocal drift  # as of a shared machine: slow waves, and noise on top
                drift = 0.9 * drift + rng.normal(0, 0.05)
                return math.exp(log_seconds + drift + rng.normal(0, 0.035))

            return seconds

        def is_enough(times):
            if n_blocks(times) < 5:
                return False
            return n_blocks(times) >= 27 or paired_ratio(times, 0, [1, 2]).half_width <= 0.02

        backbone = passes(0.0)
        times = time_in_turn([passes(truth), backbone, backbone], is_enough, limit_s=60)
        ratio = paired_ratio(times, 0, [1, 2])
        hits += ratio.low <= math.exp(truth) <= ratio.high
    assert hits / n_measured >= 0.95


def test_passes_held_up_move_the_ratio_little():
    rng = np.random.default_rng(0)
    times = np.exp(0.01 * rng.normal(size=(60, 3))) * [1.05, 1, 1]
    times[rng.random((60, 3)) < 0.15] *= 3
    assert paired_ratio(times, 0, [1, 2]).value == pytest.approx(1.05, abs=0.01)


def test_placement_holds_other_gaps_after_each_call_and_repeats_by_its_seed():
    """Where things come to lie then is the allocator's affair, and cannot be told beforehand."""

    def gaps(seed):
        move, sizes = Placement(seed), []
        for _ in range(5):
            move()
            sizes.append(tuple(gap.numel() for gap in move._gaps))
        return sizes

    assert len(set(gaps(0))) == 5 and all(gaps(0)) and gaps(0) == gaps(0) != gaps(1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's counters")
def test_placement_holds_little_memory():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    move, before = Placement(), resident()
    for _ in range(50):
        move()
    assert resident() - before < 100e6


def test_measuring_ends_when_the_time_is_up():
    times = time_in_turn([Clock(1.0)], lambda t: False, limit_s=0.0)
    assert times.shape == (1, 1)


def test_warm_up_goes_on_while_passes_get_faster():
    contender = Clock(*(2.0**-i for i in range(12)), *[2.0**-12] * 50)
    warm_up([contender], limit_s=60)
    assert 12 <= contender.n_calls <= 16


def test_warm_up_of_steady_passes_is_short():
    contender = Clock(1.0)
    warm_up([contender], limit_s=60)
    assert contender.n_calls <= 5


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (Disturbance(), ""),
        (Disturbance(others=0.2), "other processes took 20 %"),
        (Disturbance(beside=0.2), "other processes took 20 % of all cores"),
        (Disturbance(stolen=0.5, others=0.2), "the hypervisor took 50 %"),
        (Disturbance(clock=0.3), "clock changed by 30 %"),
    ],
)
def test_what_disturbs_is_told(seen, told):
    reason = seen.reason(allowed=0.1)
    assert told in reason and bool(told) == bool(reason)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's counters")
def test_another_process_on_the_same_core_is_seen_and_ones_own_work_is_not():
    from gcsearch.machine import pinned

    with pinned(1) as cores, watched(cores) as alone:
        deadline = time.process_time() + 0.5
        while time.process_time() < deadline:
            pass
    busy = f"import os; os.sched_setaffinity(0, {set(cores)})\nwhile True: pass"
    neighbour = subprocess.Popen([sys.executable, "-c", busy])
    try:
        with pinned(1) as cores, watched(cores) as disturbed:
            time.sleep(1)
    finally:
        neighbour.kill()
        neighbour.wait()
    assert disturbed.others > 0.5 and disturbed.others > alone.others


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's counters")
@pytest.mark.skipif(len(EVERY_CORE) < 2, reason="needs a core beside")
@pytest.mark.skipif(os.cpu_count() > 16, reason="one process is lost in the ticks of many cores")
def test_another_process_on_the_other_cores_is_seen():
    from gcsearch.machine import pinned

    with pinned(1) as cores:
        others = EVERY_CORE - set(cores)
        busy = f"import os; os.sched_setaffinity(0, {others})\nwhile True: pass"
        neighbour = subprocess.Popen([sys.executable, "-c", busy])
        try:
            with watched(cores) as disturbed:
                time.sleep(1)
        finally:
            neighbour.kill()
            neighbour.wait()
    assert disturbed.beside > 0.5 / os.cpu_count()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's counters")
def test_a_tick_of_the_counters_is_no_disturbance(monkeypatch):
    tick_s = 0.01
    after = np.array([tick_s] + [0.0] * 6 + [tick_s])  # user time, and stolen
    readings = iter([{0: 0 * after, 1: 0 * after}, {0: after, 1: after}])
    monkeypatch.setattr("gcsearch.cost.disturbance._counters", lambda: next(readings))
    with watched([0]) as seen:
        pass
    assert (seen.others, seen.beside, seen.stolen) == (0, 0, 0)


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize(
    ("times", "told"),
    [
        ([[1.0, 1.0, 1.5]] * 30, "the backbone against itself takes 1.500"),
        ([[1.0, 1.0, 1.0], [9.0, 1.0, 1.0]] * 15, "the interval is wider than"),
        ([[1.0, 1.0, 1.0]] * 3, "the time was up after 6 rounds"),
    ],
)
def test_doubtful_times_make_no_number(monkeypatch, times, told):
    monkeypatch.setattr(module, "time_in_turn", lambda *a, **k: np.array(times))
    settings = LOOSE.model_copy(update={"precision": 0.01})
    ratio = compare_latency(two_convolutions(), two_convolutions(), SIZE, settings)
    assert not ratio.conclusive and told in ratio.reason
    assert str(ratio).startswith("inconclusive [") and ratio.reason in str(ratio)


def test_disturbed_times_make_no_number_and_are_taken_again(monkeypatch):
    limits = []

    def disturbed(contenders, is_enough, *, limit_s, **_):
        limits.append(limit_s)
        return np.ones((30, 3))

    monkeypatch.setattr(module, "time_in_turn", disturbed)
    monkeypatch.setattr(Disturbance, "reason", lambda self, allowed: "too much going on")
    ratio = compare_latency(two_convolutions(), two_convolutions(), SIZE, LOOSE)
    assert (ratio.conclusive, ratio.reason) == (False, "too much going on")
    assert limits == [LOOSE.time_limit_s, 2 * LOOSE.time_limit_s]


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize(("twin", "kept"), [(1.0, True), (1.5, False)])
def test_rounds_that_are_too_few_are_kept_and_spoiled_ones_are_not(monkeypatch, twin, kept):
    first, then = np.array([[1.0, 1.0, twin], [9.0, 1.0, twin]] * 15), np.ones((270, 3))
    rows, asked = iter([first, then]), []

    def in_turn(contenders, is_enough, **_):
        times = next(rows)
        asked.append(is_enough(times))
        return times

    monkeypatch.setattr(module, "time_in_turn", in_turn)
    settings = LOOSE.model_copy(update={"precision": 0.01})
    ratio = compare_latency(two_convolutions(), two_convolutions(), SIZE, settings)
    assert ratio.conclusive and ratio.pairs == len(then) + kept * len(first)
    assert asked == [False, True]


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize(("precision", "is_number"), [(None, False), (9.0, True)])
def test_precision_can_be_wanted_for_one_measurement(monkeypatch, precision, is_number):
    times, asked = np.array([[1.0, 1.0, 1.0], [9.0, 1.0, 1.0]] * 15), []

    def in_turn(contenders, is_enough, **_):
        asked.append(is_enough(times))
        return times

    monkeypatch.setattr(module, "time_in_turn", in_turn)
    settings = LOOSE.model_copy(update={"precision": 0.01})
    ratio = LatencyProbe(two_convolutions(), SIZE, settings).measure(
        two_convolutions(), precision=precision
    )
    assert (ratio.conclusive, asked[0]) == (is_number, is_number)


@pytest.mark.usefixtures("undisturbed")
def test_steady_times_are_a_number(monkeypatch):
    rows = np.array([[1.1, 1.0, 1.0]] * 30) * 1e-3
    monkeypatch.setattr(module, "time_in_turn", lambda *a, **k: rows)
    ratio = compare_latency(two_convolutions(), two_convolutions(), SIZE, LOOSE)
    assert ratio.conclusive and ratio.reason == "" and ratio.pairs == 30
    assert (ratio.ratio, ratio.latency_ms, ratio.baseline_ms) == pytest.approx((1.1, 1.1, 1.0))
    assert ratio.noise == pytest.approx((1, 1, 1)) and ratio.latency_p90_ms == pytest.approx(1.1)


def test_ratio_goes_to_plain_data_and_back():
    ratio = LatencyRatio(1.1, 1.0, 1.2, True, 2.0, 1.8, 30, 0.5, 2.2, 2.0, (1.0, 0.9, 1.1))
    assert LatencyRatio(**json.loads(json.dumps(vars(ratio)))) == ratio
    older = {k: v for k, v in vars(ratio).items() if k not in ("noise", "reason")}
    assert LatencyRatio(**older).ratio == 1.1


@pytest.mark.parametrize("is_instant", [True, False])
def test_models_are_timed_as_fresh_copies_where_preparing_takes_no_time(monkeypatch, is_instant):
    prepared = []

    class Runtime(RUNTIMES["eager"]):
        def prepare(self, model, example, threads):
            prepared.append(model)
            return super().prepare(model, example, threads)

    Runtime.is_instant = is_instant
    monkeypatch.setitem(RUNTIMES._entries, "eager", Runtime)
    candidate, backbone = two_convolutions(), two_convolutions()
    ratio = compare_latency(candidate, backbone, SIZE, LOOSE)
    assert prepared[:2] == [backbone, candidate]
    assert len(prepared) == 2 if not is_instant else len(prepared) >= 2 * ratio.pairs // 3
    shared = [*candidate.parameters(), *backbone.parameters()]
    for copy in prepared[2:]:
        assert copy not in (candidate, backbone) and not copy.training
        assert all(any(p is own for own in shared) for p in copy.parameters())


def test_model_that_cannot_be_copied_is_refused_in_one_line():
    class Single(nn.Conv2d):
        def __deepcopy__(self, memo):
            raise TypeError("there is\nonly one")

    with pytest.raises(LatencyError, match=r"cannot be copied.*: there is only one; give"):
        compare_latency(two_convolutions(), Single(3, 4, 1), SIZE, LOOSE)
    with pytest.raises(LatencyError, match="cannot be copied"):
        share_weights(Single(3, 4, 1))


def test_copy_shares_its_weights_and_can_be_altered_alone():
    model = two_convolutions()
    twin = share_weights(model)
    assert all(a is b for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert all(a is b for a, b in zip(model.buffers(), twin.buffers(), strict=True))
    twin.add_module("more", nn.Conv2d(4, 4, 1))
    assert len(model) == 4


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("memory_format", ["channels_last", "contiguous"])
def test_types_and_formats_can_be_set(dtype, memory_format):
    settings = LOOSE.model_copy(
        update={"dtype": dtype, "memory_format": memory_format, "batch_size": 2}
    )
    probe = LatencyProbe(two_convolutions(), SIZE, settings)
    assert probe.measure(two_convolutions()).latency_ms > 0
    assert probe.times.shape[1] == 3


def test_more_threads_than_cores_are_refused():
    with pytest.raises(LatencyError, match=r"latency\.threads = 1000 is more than the \d+ cores"):
        LatencyProbe(two_convolutions(), SIZE, LOOSE.model_copy(update={"threads": 1000}))


def test_devices_without_a_clock_and_that_are_not_there_are_refused():
    for device, told in (
        ("meta", "cannot be timed; use cpu, cuda"),
        ("cuda:99", "cannot be used"),
    ):
        with pytest.raises(LatencyError, match=rf"latency\.device '{device}' {told}"):
            LatencyProbe(two_convolutions(), SIZE, LOOSE.model_copy(update={"device": device}))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("latency.runtime=egaer", "unknown runtime 'egaer'; did you mean 'eager'"),
        ("latency.batch_size=0", "greater than or equal to 1"),
        ("latency.image_size=-5", "greater than or equal to 8"),
        ("latency.threads=-1", "greater than or equal to 0"),
        ("latency.time_limit_s=0", "greater than 0"),
        ("latency.dtype=int8", "'fp32', 'bf16' or 'fp16'"),
        ("latency.disturbance=0", "greater than 0"),
    ],
)
def test_senseless_settings_are_refused(override, told):
    with pytest.raises(ConfigError, match=told):
        load_config(None, [override])

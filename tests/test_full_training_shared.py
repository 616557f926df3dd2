"""Full training by several processes comes to what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from full_training import HERE, run, whole_weights, write_found
from safetensors.torch import load_file

from gcsearch.proxy.sources import load_task
from gcsearch.training.pictures import training_batches

pytest.importorskip("lightning_fabric")

pytestmark = pytest.mark.usefixtures("unshared_machine", "elsewhere")


TOGETHER = """
import json, os, sys
from dataclasses import asdict
from pathlib import Path
sys.path.insert(0, {tests!r})
from full_training import settings_for
from gcsearch.training import train
settings = settings_for({bright!r}, "seed=1", "lr=0.01")
trained = train(Path({found!r}), settings, Path({output!r}), trust=True)
told = [[r.train_loss, asdict(r.val)] for r in trained.history], asdict(trained.test)
Path({output!r}, "told" + os.environ["RANK"]).write_text(json.dumps(told))
"""


@pytest.mark.slow
def test_two_processes_come_to_what_one_does(bright, tmp_path):
    found = write_found(tmp_path / "found.yaml", backbone="plain")
    alone = run(found, bright, tmp_path / "alone", "seed=1", "lr=0.01")
    output, script = tmp_path / "out", tmp_path / "together.py"
    script.write_text(
        TOGETHER.format(tests=str(HERE), bright=bright, found=str(found), output=str(output))
    )
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, *words], check=True, env=environment, capture_output=True, text=True
    )
    assert "Warning" not in ended.stderr
    first, second = (json.loads((output / f"told{rank}").read_text()) for rank in (0, 1))
    assert first == second
    assert first[1]["top1"] == pytest.approx(alone.test.top1, abs=1 / 22)
    mine, theirs = load_file(whole_weights(alone)), load_file(output / "best.safetensors")
    for key, value in mine.items():
        torch.testing.assert_close(theirs[key], value, atol=1e-4, rtol=1e-3)


def test_processes_share_the_pictures_of_each_step_whatever_loads_them(bright):
    task = load_task(bright)
    common = {"side": 8, "seed": 3, "epoch": 2, "batch_size": 16, "crop_area": 0.3}
    whole = list(training_batches(task, **common))
    for number in (2, 4):
        shares = [
            list(training_batches(task, **common, rank=rank, world_size=number))
            for rank in range(number)
        ]
        for step, (pictures, labels) in enumerate(whole):
            assert torch.equal(torch.cat([share[step][0] for share in shares]), pictures)
            assert torch.equal(torch.cat([share[step][1] for share in shares]), labels)


def test_augmenting_leaves_the_randomness_of_the_network_alone(bright):
    batches = training_batches(
        load_task(bright), side=8, seed=3, epoch=2, batch_size=16, crop_area=0.3
    )
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(batches)
    assert torch.equal(torch.rand(3), expected)


def test_orders_and_crops_differ_between_epochs(bright):
    task, common = load_task(bright), {"side": 12, "seed": 0, "batch_size": 64}
    first, second = (
        next(training_batches(task, **common, epoch=epoch, crop_area=None)) for epoch in (0, 1)
    )
    assert not torch.equal(first[1], second[1])
    assert sorted(first[1].tolist()) == sorted(second[1].tolist())
    cropped = next(training_batches(task, **common, epoch=0, crop_area=0.3))
    assert torch.equal(cropped[1], first[1]) and not torch.equal(cropped[0], first[0])

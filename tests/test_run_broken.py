"""A search that meets networks that cannot be trained."""

from __future__ import annotations

import numpy as np
import pytest
from searching import Session, planned

from gcsearch.study import TrialRow

BREAKING = '''
from torch import nn

from gcsearch.surgery import BLOCK_NAME


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        return x + self.norm(self.conv(x)).relu()


class Breaking(nn.Module):
    """Trains with a block at ``sound``, and with one at no other place."""

    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 4, 1)
        self.diverging, self.sound, self.raising = Residual(), Residual(), Residual()
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        x = self.raising(self.sound(self.diverging(self.stem(x))))
        if self.training and hasattr(self.diverging, BLOCK_NAME):
            x = x * float("nan")
        if self.training and hasattr(self.raising, BLOCK_NAME):
            raise ArithmeticError("this network cannot be trained")
        return self.head(x.mean((2, 3)))


def build(num_classes):
    return Breaking(num_classes)
'''


@pytest.fixture(scope="module")
def broken(tiny_config, tmp_path_factory) -> tuple[tuple[int, str, str], list[TrialRow]]:
    space = {"ratios": ["1/4"], "poolings": ["att"], "fusions": ["channel_add"]}
    data = planned(tiny_config, trials=10).to_dict() | {
        "backbone": "breaking:build",
        "data": {"source": "npz:pictures.npz", "image_size": 32},
        "space": {**space, "max_insertions": 1},
    }
    session = Session(tmp_path_factory.mktemp("broken"), data)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (400, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(400) % 10
    parts = {"x_train": pictures[:300], "x_test": pictures[300:]}
    parts |= {"y_train": labels[:300], "y_test": labels[300:]}
    np.savez(session.folder / "pictures.npz", **parts)
    (session.folder / "breaking.py").write_text(BREAKING)
    process = session.start("--trust")
    output = process.communicate(timeout=300)
    return (process.returncode, *output), session.rows()


@pytest.mark.slow
def test_broken_networks_fail_with_their_reason_and_the_search_goes_on(broken):
    (code, _, err), rows = broken
    reasons = {str(r.architecture).split()[0]: r.reason for r in rows if r.duplicate_of is None}
    assert code == 0, err
    assert reasons.pop("diverging").startswith("training loss became nan")
    assert reasons.pop("raising").startswith("ArithmeticError: this network cannot be trained")
    assert reasons == {"baseline": None, "sound": None}


@pytest.mark.slow
def test_small_space_is_said_to_be_exhausted(broken):
    (_, out, _), rows = broken
    assert "every architecture of the space has been tried" in out
    assert sum(row.counts for row in rows) == 3
    assert {row.state for row in rows} <= {"COMPLETE", "FAIL"}


@pytest.mark.slow
def test_printed_commands_name_the_database(broken):
    (_, out, _), _ = broken
    lines = [line for line in out.splitlines() if "gcsearch front" in line or "resume" in line]
    assert len(lines) == 2 and all("--storage sqlite:///" in line for line in lines)

"""Who may use this machine now, seen from other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import torch

from gcsearch.machine import alone, environment, n_cores, pick_device, pick_precision, together

# A process that says when it waits and when it holds, and holds until its input ends.
HOLDER = """
import sys
from pathlib import Path
from gcsearch.machine import alone, together
with {"alone": alone, "together": together}[sys.argv[1]](Path(sys.argv[2])):
    print("holds", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(how, directory):
    command = [sys.executable, "-c", HOLDER, how, str(directory)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "holds\n"
            yield process
        finally:
            process.kill()


def gets_in(how, directory, wait_s):
    """Whether this process gets hold of the machine within some seconds; asks in a thread."""
    entered = threading.Event()

    def enter():
        with how(directory):
            entered.set()

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    return entered.wait(wait_s), thread


@pytest.mark.parametrize(
    ("held", "wanted"), [("together", alone), ("alone", together), ("alone", alone)]
)
def test_alone_and_together_exclude_each_other_and_a_killed_holder_frees_both(
    tmp_path, held, wanted
):
    with holder(held, tmp_path) as process:
        got_in, thread = gets_in(wanted, tmp_path, wait_s=0.3)
        assert not got_in
        process.kill()
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_several_are_together_at_once(tmp_path):
    with holder("together", tmp_path), together(tmp_path), together(tmp_path):
        got_in, _ = gets_in(together, tmp_path, wait_s=30)
        assert got_in


def test_who_wants_to_be_alone_is_not_overtaken_by_newcomers(tmp_path):
    with together(tmp_path):
        first, waiting = gets_in(alone, tmp_path, wait_s=0.3)
        second, newcomer = gets_in(together, tmp_path, wait_s=0.3)
        assert not first and not second
    for thread in (waiting, newcomer):
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_error_inside_frees_the_machine(tmp_path):
    with pytest.raises(KeyError), alone(tmp_path):
        raise KeyError
    with alone(tmp_path):
        pass


def test_lock_files_never_cut_short_what_they_point_to(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "room.lock").symlink_to(precious)
    with alone(tmp_path), pytest.raises(AttributeError):
        raise AttributeError
    assert precious.read_text() == "kept"


def test_cores_are_those_this_process_may_use():
    assert 1 <= n_cores() <= (os.cpu_count() or 1)


def test_what_is_wanted_is_what_is_picked():
    assert pick_device("cuda:1") == "cuda:1"
    assert [pick_precision(p, "cpu") for p in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]


@pytest.mark.parametrize(
    ("capability", "precision"),
    [
        ({}, "fp32"),
        ({"avx2": True}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
    ],
)
def test_processor_gets_bfloat16_only_if_it_multiplies_in_it(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capability)
    assert pick_precision("auto", "cpu") == precision


def test_environment_is_plain_and_names_versions():
    names = environment()
    assert torch.__version__.startswith(names["torch"])
    assert all(isinstance(v, (str, int)) and v != "" for v in names.values())

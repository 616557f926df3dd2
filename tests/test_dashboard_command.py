"""The dashboard command: it serves until it is stopped, and refuses an address in one line."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing

import pytest


@pytest.fixture
def port():
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_dashboard_serves_the_study(told, port):
    command = [sys.executable, "-m", "gcsearch", "dashboard", "--storage", told]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A job in the background of a script ignores it, and so do the tests in such a job.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert b"Optuna" in fetch(f"http://127.0.0.1:{port}/", process)
        studies = json.loads(fetch(f"http://127.0.0.1:{port}/api/studies", process))
        assert [study["study_name"] for study in studies["study_summaries"]] == ["tiny"]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate(timeout=30)


def fetch(url: str, process: subprocess.Popen) -> bytes:
    """Return what an address answers, once the server is up."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return response.read()
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError(f"the dashboard ended: {process.communicate()}")


def test_dashboard_on_a_taken_port_is_one_line(call, told):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, out, err = call("dashboard", "--storage", told, "--port", port)
    assert code == 1 and f"cannot listen on 127.0.0.1:{port}" in err and "http://" not in out


def test_dashboard_at_an_address_of_another_machine_is_one_line(call, told):
    code, _, err = call("dashboard", "--storage", told, "--host", "192.0.2.1")
    assert code == 1 and "whoever reaches 192.0.2.1:8080 can change and delete studies" in err
    assert "cannot listen on 192.0.2.1:8080" in err and "choose another --port or --host" in err

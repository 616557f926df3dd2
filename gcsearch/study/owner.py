"""Whose a running trial is, and whether that process still lives; knows no study."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

__all__ = ["is_dead", "this_process"]


def this_process() -> dict[str, Any]:
    """Return what identifies this process among all that ever ran: host, pid and start time."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "started": _started(pid)}


def is_dead(owner: dict[str, Any] | None) -> bool:
    """Whether the owner ran on this host and is gone; of other hosts only a heartbeat tells."""
    if not owner or owner.get("host") != socket.gethostname():
        return False
    pid = int(owner["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _started(pid) != owner.get("started")


def _started(pid: int) -> str | None:
    """Return the kernel's start time of a process, where it tells: pids are used again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    is_zombie = fields[0] == "Z"
    return None if is_zombie else fields[19]

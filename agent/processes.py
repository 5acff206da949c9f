"""Processes that the agent starts: ending them for certain, and recognising them later."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

TERMINATE_PATIENCE_S: Final = 2.0
"""How long a worker may take to end by itself before it is killed."""

KILL_PATIENCE_S: Final = 10.0
"""How long one that was killed may take to end; what waits for a dead disk or device does not."""

_ORPHAN_PATIENCE_S: Final = 5.0
_ORPHAN_INTERVAL_S: Final = 0.01

_log = logging.getLogger(__name__)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, and the group: politely first, then for certain.

    One that the kernel does not let go (state D) is left to it, killed; `returncode` stays None.
    """
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TERMINATE_PATIENCE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(KILL_PATIENCE_S)
    except subprocess.TimeoutExpired:
        _log.error("process %d was killed %g s ago and has not ended", process.pid, KILL_PATIENCE_S)


def started_ticks(pid: int) -> int | None:
    """When a living process was started, in clock ticks since boot; None when there is none.

    Field 22 of /proc/PID/stat, which unlike a wall clock time never moves (proc(5)).
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    except (OSError, ValueError, IndexError):
        return None


def oom_kills(vmstat: Path) -> int:
    """How many processes this kernel has killed for want of memory since it started."""
    try:
        for line in vmstat.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except (OSError, ValueError):
        pass
    return 0


def end_orphan(pid: int, ticks: int) -> None:
    """Kill the group of a process that was started at `ticks`, if it is still that process."""
    deadline = time.monotonic() + _ORPHAN_PATIENCE_S
    while started_ticks(pid) == ticks and time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        time.sleep(_ORPHAN_INTERVAL_S)

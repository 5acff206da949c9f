"""What a test run leaves running: every process that it started carries its mark."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

MARK = "ORCHESTRATOR_TEST_RUN"
_TRACKER = b"from multiprocessing.resource_tracker import main"
"""Begins the command of what multiprocessing keeps as long as its process lives."""
PATIENCE_S = 45.0
"""Agents of tests stop by themselves after half a minute without work."""


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Fail when a process that was started inside is still running some time after the end.

    Such processes are killed: what goes on for ever would slow down every later measurement.
    """
    mark = os.environ[MARK] = uuid.uuid4().hex
    yield
    deadline = time.monotonic() + PATIENCE_S
    while (left := running(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"still running after the tests: {left}"


def running(mark: str) -> dict[int, str]:
    """Command lines by pid of the processes with that mark; this one is not among them."""
    found: dict[int, str] = {}
    seen: set[Path] = set()
    wanted = f"{MARK}={mark}".encode()
    while new := set(Path("/proc").glob("[0-9]*")) - seen:  # as in orchestrator.lab.process
        seen |= new
        for entry in new:
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if any(words) and not any(
                        _TRACKER in word for word in words
                    ):  # a zombie has none
                        found[int(entry.name)] = b" ".join(words).decode(errors="replace").strip()
    return found


def open_files() -> int:
    """How many files, sockets and pipes this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))

"""Ties a worker's life to its agent's, and makes it the kernel's first choice when memory ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
"""prctl(2): the signal that the kernel sends when the parent is gone."""

_OOM_SCORE: Final = 900
"""Of 1000: rather than the agent or sshd, the kernel kills the worker."""


def attach(parent: int | None) -> None:
    """Die with `parent`, at once when it is gone already; None leaves the process as it is."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    if parent is None:
        return
    with contextlib.suppress(OSError, AttributeError):  # a C library without prctl
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)

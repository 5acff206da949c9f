"""Lets a child process end when its parent is gone, however the parent died."""

from __future__ import annotations

import os
import threading
import time

_POLL_S = 1.0


def end_with_parent(parent: int) -> None:
    """From now on, exit this process within about a second after `parent` is no longer its own."""
    threading.Thread(target=_follow, args=(parent,), name="end-with-parent", daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)

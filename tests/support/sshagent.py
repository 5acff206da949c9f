"""A real ssh-agent on a socket of the test's own, ended by its pid."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

SSH_AGENT = shutil.which("ssh-agent")


@contextlib.contextmanager
def running_agent(folder: Path, *keys: Path) -> Iterator[Path]:
    """Start an agent that holds these keys; yields its socket."""
    assert SSH_AGENT is not None
    path = folder / "agent sock"  # a blank in a path must not matter
    process = subprocess.Popen(
        [SSH_AGENT, "-D", "-a", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 10
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        for key in keys:
            subprocess.run(
                ["ssh-add", "-q", str(key)], check=True, timeout=30, stdin=subprocess.DEVNULL,
                env={**os.environ, "SSH_AUTH_SOCK": str(path)},
            )  # fmt: skip
        yield path
    finally:
        process.terminate()
        process.wait(timeout=10)

"""Decoding in several threads, each the first to meet a type."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys, threading
from agent import wire

sys.setswitchinterval(1e-6)
start = threading.Barrier(4)

def meet():
    start.wait()
    for kind in (wire.Outcome, wire.Hello, wire.Poll, wire.Has):
        wire.decode_reply('{"ok": null}', kind)

threads = [threading.Thread(target=meet) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("attempt", range(4))
def test_first_use_of_a_type(attempt: int) -> None:
    """Boards that answer at the same moment do not crash the process."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")

"""The guard that every test run ends with."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from support import leftovers

CODE = "import time; print('up', flush=True); time.sleep(60)"


def test_what_a_test_leaves_running_is_found_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that outlives the tests fails them, is named, and is gone afterwards."""
    monkeypatch.setenv(leftovers.MARK, "outer")
    monkeypatch.setattr(leftovers, "PATIENCE_S", 0.1)
    guard = leftovers.nothing_left()
    guard.__enter__()
    child = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    with pytest.raises(AssertionError, match=r"time\.sleep"):
        guard.__exit__(None, None, None)
    assert child.wait(10) == -signal.SIGKILL


def test_a_run_that_ends_all_it_started_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended is nothing that was left behind, even if nobody has waited for it."""
    monkeypatch.setenv(leftovers.MARK, "outer")
    with leftovers.nothing_left():
        subprocess.Popen([sys.executable, "-c", "pass"]).wait(10)

"""Keeps what a running trial has recorded: forced to the disk about once a second.

A thread of the agent does it, from the outside: the timed process takes no part, waits for no disk
and does not even lose the mapping of a page to it, for its samples are copied (agent.samplelog).
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent import samplefile
from agent.artifacts import sync_directory
from agent.samplelog import SampleLog

KEEP_PERIOD_S: Final = 1.0

_log = logging.getLogger(__name__)


class Keeper:
    """The thread beside one trial; what it cannot write, it tries again next time."""

    def __init__(self, directory: Path, lines: Sequence[str], period_s: float) -> None:
        """`lines` names the files of the directory that only grow."""
        self._directory = directory
        self._sizes = dict.fromkeys(lines, 0)
        self._period_s = period_s
        self._samples: SampleLog | None = None
        self._names_synced = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin beside the trial."""
        self._thread.start()

    def stop(self) -> None:
        """End; what is recorded from now on is finalised by the journal."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._samples is not None:
            self._samples.close()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            # A full or broken disk: the trial goes on, and what was not kept is in memory.
            with contextlib.suppress(OSError):
                self.keep()

    def keep(self) -> None:
        """Force out what is new; raises OSError.

        Events go first: they say when the first call was made that all samples are placed by.
        """
        for name in self._sizes:
            self._sync_lines(name)
        self._copy_samples()
        if not self._names_synced:
            sync_directory(self._directory)
            self._names_synced = self._samples is not None

    def _sync_lines(self, name: str) -> None:
        try:
            fd = os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            size = os.fstat(fd).st_size
            if size != self._sizes[name]:
                os.fdatasync(fd)
                self._sizes[name] = size
        finally:
            os.close(fd)

    def _copy_samples(self) -> None:
        have = 0 if self._samples is None else self._samples.samples
        new = samplefile.since(self._directory / samplefile.NAME, have)
        if new is None:
            return
        if self._samples is None:
            self._samples = SampleLog(self._directory / samplefile.LOG_NAME)
        self._samples.append(*new)

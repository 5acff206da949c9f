"""Telemetry beside a trial: one reading each period, kept in memory and in the journal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from agent.wire import Reading, Sources, encode


class Telemetry(Protocol):
    """What the agent needs of agent.telemetry."""

    @property
    def sources(self) -> Sources:
        """Where each reading comes from."""

    def read(self, worker_pid: int | None) -> Reading:
        """One reading now."""


class Sampler:
    """A thread that takes a reading each period and appends it to the journal."""

    def __init__(
        self, path: Path, telemetry: Telemetry, pid: Callable[[], int | None], period_s: float
    ) -> None:
        self.readings: list[Reading] = []
        self._path = path
        self._telemetry = telemetry
        self._pid = pid
        self._period_s = period_s
        self._unwritten = b""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def start(self) -> None:
        """Take the first reading at once, the others beside the trial."""
        self._take()
        self._thread.start()

    def stop(self) -> None:
        """Take a last reading and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._take()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + self._period_s, time.monotonic())
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            self._take()

    def _take(self) -> None:
        reading = self._telemetry.read(self._pid())
        self.readings.append(reading)
        self._unwritten += encode(reading).encode() + b"\n"
        try:
            with self._path.open("ab", buffering=0) as stream:
                written = stream.write(self._unwritten)
        except OSError:
            return  # a full disk: the reading is kept and written with the next one
        self._unwritten = self._unwritten[written:]

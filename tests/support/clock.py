"""A clock that stands still until somebody sleeps."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

START_S = 1000.0


class FakeClock:
    """Each thread has its own time, which passes only through its own `sleep`.

    A board's thread and the fake agent it talks to share a thread and so a time; many boards
    wait without waiting for each other.
    """

    def __init__(self) -> None:
        self._own = threading.local()
        self._lock = threading.Lock()
        self.slept_s: dict[str, float] = {}

    def monotonic_s(self) -> float:
        return float(getattr(self._own, "now_s", START_S))

    def utc(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.monotonic_s())

    def sleep(self, seconds: float) -> None:
        self._own.now_s = self.monotonic_s() + max(seconds, 1e-6)
        with self._lock:
            self.slept_s[threading.current_thread().name] = self._own.now_s - START_S

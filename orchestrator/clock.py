"""Time as the host sees it, injected so that tests need not wait."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Seconds that only go forward, the date, and waiting."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary point."""

    def utc(self) -> datetime:
        """The date and time in UTC."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The real one."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary point."""
        return time.monotonic()

    def utc(self) -> datetime:
        """The date and time in UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

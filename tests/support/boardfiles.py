"""Files of /proc and /sys as boards have them, and a clock that passes while somebody sleeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def stat_line(pid: int, name: str, parent: int, ticks: int, started: int = 100) -> str:
    """/proc/PID/stat of a process that used so many ticks."""
    before = f"{pid} ({name}) R {parent} {pid} {pid} 0 -1 4194304 10 0 0 0"
    return f"{before} {ticks} 0 0 0 20 0 1 0 {started} 1000 20\n"


class Ticking:
    """Nanoseconds that pass only while somebody sleeps; `meanwhile` happens then."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.now_ns = 0
        self.meanwhile = meanwhile

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)
        self.meanwhile()

"""What else keeps the processors of a board busy: the load, and the busiest other process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.procfs import read_text

SAMPLE_S: Final = 0.5
"""How long processes are watched: 50 ticks of the kernel's usual 100 Hz, so about 2 % a tick."""

_NS_PER_S: Final = 1_000_000_000
_NAME_LENGTH: Final = 32
_PARENT_FIELD: Final = 1
_USER_TICKS_FIELD: Final = 11
_SYSTEM_TICKS_FIELD: Final = 12
_STARTED_FIELD: Final = 19
"""Places in /proc/PID/stat after the name in brackets, from 0 (proc_pid_stat(5))."""


@dataclass(frozen=True)
class Process:
    """One process at one moment; `started` tells it from a later one with the same id."""

    pid: int
    name: str
    parent: int
    started: int
    ticks: int


@dataclass(frozen=True)
class Busy:
    """A process and the share of one core that it used while it was watched."""

    pid: int
    name: str
    core_share: float


def load_average(sysroot: Path) -> float | None:
    """Processes that ran or waited for a processor or a disk, averaged over a minute."""
    found = re.match(r"(\d+\.\d+) ", read_text(sysroot, "proc/loadavg") or "")
    return float(found[1]) if found else None


def processes(sysroot: Path) -> dict[int, Process]:
    """All processes by id; one that ends meanwhile is left out."""
    try:
        names = os.listdir(sysroot / "proc")  # noqa: PTH208 - names alone are needed
    except OSError:
        return {}
    found = (_process(sysroot, int(name)) for name in names if name.isdecimal())
    return {one.pid: one for one in found if one is not None}


def _process(sysroot: Path, pid: int) -> Process | None:
    text = read_text(sysroot, f"proc/{pid}/stat") or ""
    head, _, tail = text.rpartition(")")  # a process may have brackets in its name
    fields = tail.split()
    try:
        return Process(
            pid=pid,
            name=head.partition("(")[2][:_NAME_LENGTH],
            parent=int(fields[_PARENT_FIELD]),
            started=int(fields[_STARTED_FIELD]),
            ticks=int(fields[_USER_TICKS_FIELD]) + int(fields[_SYSTEM_TICKS_FIELD]),
        )
    except (ValueError, IndexError):
        return None


def busiest(
    sysroot: Path,
    *,
    own_pid: int,
    clock: Callable[[], int],
    sleep: Callable[[float], None],
    tick_hz: int,
) -> Busy | None:
    """The process that used most time within SAMPLE_S, ours and our children left out.

    None where none used any, or /proc cannot be read.
    """
    before, began_ns = processes(sysroot), clock()
    sleep(SAMPLE_S)
    after, ended_ns = processes(sysroot), clock()
    elapsed_ns = ended_ns - began_ns
    if elapsed_ns <= 0:
        return None
    used = [
        (one.ticks - before[pid].ticks, one)
        for pid, one in after.items()
        if pid in before and before[pid].started == one.started and not _is_own(one, after, own_pid)
    ]
    ticks, most = max(used, key=lambda pair: pair[0], default=(0, None))
    if most is None or ticks <= 0:
        return None
    return Busy(most.pid, most.name, ticks / tick_hz / (elapsed_ns / _NS_PER_S))


def _is_own(process: Process, every: dict[int, Process], own_pid: int) -> bool:
    """Whether it is process `own_pid` or descends from it."""
    seen: set[int] = set()
    pid = process.pid
    while pid in every and pid not in seen:
        if pid == own_pid:
            return True
        seen.add(pid)
        pid = every[pid].parent
    return False

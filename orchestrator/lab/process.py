"""Processes that the lab started, known beyond doubt: nothing else can ever be signalled.

A pid alone may belong to another process by now. A process is known by its pid together with
the time it started and the boot it started in, and every one that the lab starts carries the
lab's folder in its environment, so that it is found even if its pid was never recorded.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

PROC: Final = Path("/proc")
LAB_VARIABLE: Final = "ORCHESTRATOR_LAB"
ROLE_VARIABLE: Final = "ORCHESTRATOR_LAB_ROLE"
BUILDER: Final = "build"

_POLL_S: Final = 0.02

_STATE, _START = 0, 19
"""Fields 3 and 22 of /proc/PID/stat, counted after the name in parentheses (proc(5))."""


class ProcessId(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One process, for ever: `start_ticks` counts clock ticks since the boot `boot_id`."""

    pid: int
    start_ticks: int
    boot_id: str


def environment(lab: Path, role: str) -> dict[str, str]:
    """The environment of here with the mark of the lab in `lab`, and system tools on PATH."""
    path = os.environ.get("PATH", os.defpath)
    marks = {LAB_VARIABLE: str(lab.resolve()), ROLE_VARIABLE: role}
    return {**os.environ, "PATH": f"{path}:/usr/sbin:/sbin", **marks}


def board_role(name: str) -> str:
    """The mark of a board's emulator."""
    return f"board {name}"


def identify(pid: int, proc: Path = PROC) -> ProcessId | None:
    """The process that has `pid` now; None where none has, or it has ended already."""
    try:
        stat = (proc / str(pid) / "stat").read_text(errors="replace")
        boot_id = (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[_STATE] in "ZX":
        return None
    return ProcessId(pid, int(fields[_START]), boot_id)


def is_running(process: ProcessId, proc: Path = PROC) -> bool:
    """Whether it has not ended; a frozen process is running."""
    return identify(process.pid, proc) == process


def is_frozen(process: ProcessId, proc: Path = PROC) -> bool:
    """Whether SIGSTOP holds it."""
    try:
        stat = (proc / str(process.pid) / "stat").read_text(errors="replace")
    except OSError:
        return False
    return is_running(process, proc) and stat.rpartition(")")[2].split()[_STATE] == "T"


def send(process: ProcessId, number: signal.Signals) -> bool:
    """Signal exactly that process; False where it has ended."""
    with _opened(process) as handle:
        if handle is None:
            return False
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        return True


def wait_end(process: ProcessId, timeout_s: float) -> bool:
    """Wait until it has ended; False when the time is over."""
    with _opened(process) as handle:
        if handle is None:
            return True
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))


@contextlib.contextmanager
def _opened(process: ProcessId) -> Iterator[int | None]:
    """A handle of that very process; None where it has ended.

    What a handle stands for never changes, so checking after opening leaves no gap.
    """
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle if is_running(process) else None
    finally:
        os.close(handle)


def marked(lab: Path, proc: Path = PROC) -> Mapping[ProcessId, str]:
    """Every running process with the mark of the lab in `lab`, and its role.

    Looks again until no process has appeared since: one that ends while its child has just been
    born would otherwise be missed together with the child.
    """
    mark, found = str(lab.resolve()), {}
    seen: set[Path] = set()
    while new := set(proc.glob("[0-9]*")) - seen:
        seen |= new
        for entry in new:
            variables = _variables(entry)
            if variables.get(LAB_VARIABLE) != mark or ROLE_VARIABLE not in variables:
                continue
            process = identify(int(entry.name), proc)
            if process is not None:
                found[process] = variables[ROLE_VARIABLE]
    return found


def _variables(entry: Path) -> dict[str, str]:
    """A process's environment at its start; empty where it is another account's, or gone."""
    try:
        text = (entry / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    pairs = (item.partition("=") for item in text.split("\0"))
    return {name: value for name, _, value in pairs}


def kill_all(lab: Path, role: str, timeout_s: float) -> bool:
    """Kill every process of that role until none is left; False when the time is over.

    One that forks while it is looked for (an emulator on its way to the background, whose
    starter was killed) is caught the next time round.
    """
    deadline = time.monotonic() + timeout_s
    while found := [one for one, its_role in marked(lab).items() if its_role == role]:
        for one in found:
            send(one, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True

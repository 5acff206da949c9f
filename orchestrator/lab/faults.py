"""Faults on purpose: what a cable, a power supply and a bad board do, done to a virtual one.

Each takes the lab, so that `Lab(workspace.lab)` is all a test needs. A fault of a board that is
off is refused, but for `power_on`.
"""

from __future__ import annotations

import signal
import time
from typing import Final

from orchestrator.boards.sshcommand import SshTarget
from orchestrator.lab import machine, monitor, process, qemu
from orchestrator.lab.errors import VirtualBoardFailed
from orchestrator.lab.layout import Lab
from orchestrator.lab.process import ProcessId

_POLL_S: Final = 0.01


def set_link(lab: Lab, name: str, up: bool) -> None:
    """Pull the network cable out, or put it back; open connections survive a short while.

    A new connection is accepted by the emulator while the cable is out, and then says nothing.
    """
    folder = lab.board(name)
    monitor.command(folder.monitor, "set_link", name=qemu.NETWORK_CARD, up=up)


def freeze(lab: Lab, name: str) -> None:
    """Stop a board between two instructions, its clock too; it is when this returns."""
    found = _running(lab, name)
    process.send(found, signal.SIGSTOP)
    while process.is_running(found) and not process.is_frozen(found):
        time.sleep(_POLL_S)  # a signal arrives when the kernel sees fit


def thaw(lab: Lab, name: str) -> None:
    """Let a frozen board go on."""
    process.send(_running(lab, name), signal.SIGCONT)


def reset(lab: Lab, name: str) -> None:
    """Press the reset button: it boots again at once; what was not synced may be lost."""
    monitor.command(lab.board(name).monitor, "system_reset")


def cut_power(lab: Lab, name: str) -> None:
    """Switch a board off without a word: what was not synced is lost."""
    _running(lab, name)
    machine.stop(lab, lab.board(name), None)


def power_on(lab: Lab, name: str, clock_utc: str | None = None) -> None:
    """Start a board again from its disk, on the same port; see `machine.start`.

    Without a battery a Raspberry Pi's clock starts in the past: `clock_utc` sets it.
    """
    folder = lab.board(name)
    if machine.running(lab, folder) is None:
        machine.start(lab, folder, clock_utc)


def wait_until_up(
    lab: Lab, name: str, target: SshTarget, timeout_s: float = machine.BOOT_TIMEOUT_S
) -> None:
    """Wait until a login succeeds again; raises VirtualBoardFailed."""
    machine.wait_until_up(lab, lab.board(name), target, timeout_s)


def _running(lab: Lab, name: str) -> ProcessId:
    found = machine.running(lab, lab.board(name))
    if found is None:
        raise VirtualBoardFailed(f"{name} is off; `orchestrator lab up {name}` starts it")
    return found

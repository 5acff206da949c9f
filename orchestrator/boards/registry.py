"""From an entry of the inventory to a board that can be connected to."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.boards.base import Board
from orchestrator.boards.local import LocalBoard
from orchestrator.boards.ssh import DIAL_TIMEOUT_S, EMULATED_DIAL_TIMEOUT_S, SshBoard
from orchestrator.boards.sshcommand import SshTarget
from orchestrator.inventory import BoardEntry, Inventory
from orchestrator.workspace import Workspace


def ssh_target(entry: BoardEntry, inventory: Inventory, workspace: Workspace) -> SshTarget:
    """How ssh reaches an entry, with the host keys of this workspace."""
    return SshTarget(
        name=entry.name,
        address=entry.target,
        known_hosts=workspace.known_hosts,
        user=entry.user,
        port=entry.port,
        jump=entry.jump,
        ssh_config=entry.ssh_config or inventory.ssh_config,
        remedy=f"orchestrator lab up {entry.name}" if entry.lab else None,
    )


def make_board(entry: BoardEntry, inventory: Inventory, workspace: Workspace) -> Board:
    """The board of an entry; nothing is contacted yet."""
    if entry.kind == "local":
        home = Path(entry.home).expanduser()
        python = str(Path(entry.python or sys.executable).expanduser())
        extra = tuple(str(Path(word).expanduser()) for word in agent_options(entry))
        return LocalBoard(entry.name, home=home, python=python, extra=extra)
    return SshBoard(
        ssh_target(entry, inventory, workspace),
        home=entry.home,
        python=entry.python,
        extra=agent_options(entry),
        dial_timeout_s=EMULATED_DIAL_TIMEOUT_S if entry.lab else DIAL_TIMEOUT_S,
    )


def agent_options(entry: BoardEntry) -> tuple[str, ...]:
    """What the inventory has the agent told, as words of its command line."""
    return ("--lock", entry.lock) if entry.lock is not None else ()

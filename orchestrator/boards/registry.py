"""From an entry of the inventory to a board that can be connected to."""

from __future__ import annotations

from pathlib import Path

from orchestrator.boards.base import Board
from orchestrator.boards.local import LocalBoard
from orchestrator.boards.ssh import SshBoard
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
        ssh_config=inventory.ssh_config,
    )


def make_board(entry: BoardEntry, inventory: Inventory, workspace: Workspace) -> Board:
    """The board of an entry; nothing is contacted yet."""
    if entry.kind == "local":
        return LocalBoard(entry.name, home=Path(entry.home).expanduser(), python=entry.python)
    target = ssh_target(entry, inventory, workspace)
    return SshBoard(target, home=entry.home, python=entry.python)

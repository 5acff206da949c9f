"""From an entry of the inventory to a board."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator import inventory as inventories
from orchestrator.boards.local import LocalBoard
from orchestrator.boards.registry import make_board, ssh_target
from orchestrator.boards.ssh import SshBoard
from orchestrator.deploy import Bundle
from orchestrator.inventory import Inventory
from orchestrator.workspace import Workspace

TEXT = """
ssh_config: config
boards:
  here:
    local: true
    home: ~/agent-home
    lock: ~/board.lock
  own:
    local: true
    python: ~/env/bin/python
  pi5:
    address: 10.0.0.5
    user: pi
    port: 2222
    jump: gate.example.org
    python: /opt/py/bin/python
    home: /srv/agent
    lock: /srv/lock
  alias:
    ssh_alias: lab-pi
    address: 10.0.0.6
"""


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    (tmp_path / "config").write_text("")
    (tmp_path / "inventory.yaml").write_text(TEXT)
    return Workspace(tmp_path / "inventory.yaml")


@pytest.fixture
def known(place: Workspace) -> Inventory:
    return inventories.load(place.inventory)


def local(known: Inventory, place: Workspace, name: str) -> LocalBoard:
    board = make_board(known.boards[name], known, place)
    assert isinstance(board, LocalBoard)
    return board


def test_local(known: Inventory, place: Workspace) -> None:
    """A local board has this interpreter, a home of its own, and the lock that it is given."""
    board = local(known, place, "here")
    assert board.name == "here"
    assert board._python == sys.executable
    assert board._home == Path.home() / "agent-home"
    assert board._extra == ("--lock", str(Path.home() / "board.lock"))


def test_local_python(known: Inventory, place: Workspace) -> None:
    """The `~` of a local board's interpreter is this user's, as on any board."""
    board = local(known, place, "own")
    assert board._python == str(Path.home() / "env/bin/python")
    assert board._extra == ()


def test_ssh(known: Inventory, place: Workspace) -> None:
    """An ssh board has everything that the inventory says, and the workspace's host keys."""
    target = ssh_target(known.boards["pi5"], known, place)
    assert (target.name, target.address) == ("pi5", "10.0.0.5")
    assert (target.user, target.port, target.jump) == ("pi", 2222, "gate.example.org")
    assert target.known_hosts == place.known_hosts
    assert target.ssh_config == place.root / "config"
    board = make_board(known.boards["pi5"], known, place)
    assert isinstance(board, SshBoard)
    line = board._agent(Bundle("ab" * 32, {}), "probe")
    assert line == f"exec /opt/py/bin/python -I /srv/agent/bundles/{'ab' * 6} probe"
    assert board._extra == ("--lock", "/srv/lock")


def test_alias(known: Inventory, place: Workspace) -> None:
    """An alias of the ssh config wins over the address; what is not said is left to ssh."""
    target = ssh_target(known.boards["alias"], known, place)
    assert (target.address, target.user, target.port) == ("lab-pi", None, None)


def test_nothing_is_contacted(known: Inventory, place: Workspace) -> None:
    """Making boards makes no file and contacts nobody."""
    before = sorted(place.root.rglob("*"))
    for entry in known.boards.values():
        make_board(entry, known, place)
    assert sorted(place.root.rglob("*")) == before

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.aftermath import experiment

from orchestrator import inventory, invocation, trust
from orchestrator.boards.registry import ssh_target
from orchestrator.boards.sshcommand import SshTarget, explain
from orchestrator.errors import InventoryError, UnknownName
from orchestrator.lab import listing
from orchestrator.lab.layout import BoardState, Lab
from orchestrator.workspace import Workspace

OWN = """\
boards:
  local: {local: true}
  pi5: {address: 192.168.1.50, labels: [desk]}
"""


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A workspace with two boards of the user's and two virtual ones, none of which runs."""
    (tmp_path / "inventory.yaml").write_text(OWN)
    found = Workspace(tmp_path / "inventory.yaml")
    lab = Lab(found.lab)
    for name, packages in (("pi3b-virtual", None), ("pi5-virtual", "packages-1")):
        lab.board(name).path.mkdir(parents=True)
        lab.board(name).write(BoardState(name=name, image="i", packages=packages, port=2222))
    lab.ssh_config.write_text("Host *\n")
    listing.write(lab)
    return found


def names(place: Workspace, selection: str) -> list[str]:
    return [board.name for board in inventory.select(inventory.load(place.inventory), selection)]


def test_virtual_boards_stand_beside_the_users_own(place: Workspace) -> None:
    """The lab's file is read with the inventory, whose own text nobody changes."""
    known = inventory.load(place.inventory)
    assert list(known.boards) == ["local", "pi5", "pi3b-virtual", "pi5-virtual"]
    assert [board.lab for board in known.boards.values()] == [False, False, True, True]
    assert known.ssh_config is None
    assert place.inventory.read_text() == OWN
    assert list(inventory.load_own(place.inventory).boards) == ["local", "pi5"]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("all", ["local", "pi5"]),
        ("all,pi5-virtual", ["local", "pi5", "pi5-virtual"]),
        ("label:virtual", ["pi3b-virtual", "pi5-virtual"]),
        ("label:desk", ["pi5"]),
        ("pi5-virtual,pi3b-virtual", ["pi5-virtual", "pi3b-virtual"]),
    ],
)
def test_all_leaves_virtual_boards_out(
    place: Workspace, selection: str, expected: list[str]
) -> None:
    """A virtual board is chosen by its name or by its label, never by `all`."""
    assert names(place, selection) == expected


def test_a_board_that_was_not_started_yet_is_told_from_a_typing_error(place: Workspace) -> None:
    """The name of a kind is answered with the command that starts it; another with the nearest."""
    with pytest.raises(UnknownName, match=r"start it with `orchestrator lab up pi5-virtual-2`"):
        names(place, "pi5-virtual-2")
    with pytest.raises(UnknownName, match=r"did you mean 'pi5-virtual'\?"):
        names(place, "pi5-virtul")


def test_one_name_for_two_boards_is_refused(place: Workspace) -> None:
    """A board that the user later calls as a virtual one is an error that names both ways out."""
    place.inventory.write_text(OWN.replace("pi5:", "pi5-virtual:"))
    with pytest.raises(InventoryError, match=r"boards\.pi5-virtual: .*`orchestrator lab remove pi"):
        inventory.load(place.inventory)


def test_a_virtual_board_is_reached_with_the_labs_key_and_nothing_else(place: Workspace) -> None:
    """ssh gets the lab's own configuration, also where the inventory names another."""
    (place.root / "mine").write_text("Host *\n")
    place.inventory.write_text(OWN + "ssh_config: mine\n")
    known = inventory.load(place.inventory)
    mine, theirs = (ssh_target(known.boards[name], known, place) for name in ("pi5", "pi5-virtual"))
    assert mine.ssh_config == place.root / "mine"
    assert theirs.ssh_config == Lab(place.lab).ssh_config
    assert (theirs.address, theirs.port, theirs.user) == ("127.0.0.1", 2222, "pi")
    assert theirs.known_hosts == mine.known_hosts == place.known_hosts


def test_a_bare_board_has_the_python_of_its_own(place: Workspace) -> None:
    """Only a board with the packages disk is told to run the Python of that."""
    boards = inventory.load(place.inventory).boards
    assert boards["pi3b-virtual"].python is None
    assert boards["pi5-virtual"].python == "/opt/orchestrator/bin/python3"


def test_the_last_board_takes_the_list_with_it(place: Workspace) -> None:
    """Without a virtual board there is no file, and the inventory is the user's alone."""
    lab = Lab(place.lab)
    for board in lab.boards():
        board.state_file.unlink()
    listing.write(lab)
    assert not lab.inventory.exists()
    assert list(inventory.load(place.inventory).boards) == ["local", "pi5"]


def test_a_virtual_board_that_does_not_answer_is_started_by_a_command() -> None:
    """ssh's refusal is explained with `lab up` for a virtual board only."""
    refused = "ssh: connect to host 127.0.0.1 port 2222: Connection refused"
    virtual = SshTarget("v", "127.0.0.1", Path("k"), remedy="orchestrator lab up v")
    said = str(explain(refused, virtual))
    assert "`orchestrator lab up v` starts it" in said
    assert "Connection refused" in said
    assert "lab up" not in str(explain(refused, SshTarget("p", "10.0.0.1", Path("k"))))


GIVEN: dict[str, Any] = {
    "seed": 1, "model": None, "recipes": None, "data": None, "calibration": None, "shapes": (),
    "imgsz": None, "profile": None, "threads": None, "scale": None, "build_on": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("boards", "profile", "expected"),
    [
        ("pi5-virtual,pi3b-virtual", None, "smoke"),
        ("pi5-virtual", "quick", "quick"),
        ("pi5-virtual,local", None, "demo"),
        ("all", None, "demo"),
    ],
)
def test_runs_over_virtual_boards_alone_are_short(
    place: Workspace, monkeypatch: pytest.MonkeyPatch, boards: str, profile: str, expected: str
) -> None:
    """The profile is `smoke` where all boards are virtual and none was asked for."""
    monkeypatch.chdir(place.root)
    asked = invocation.resolve(boards, "demo", "unused", None, GIVEN | {"profile": profile})
    assert asked.experiment.profile.name == expected


def test_an_experiments_own_numbers_hold_on_virtual_boards_too(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an experiment spells out is no default that virtual boards would replace."""
    monkeypatch.chdir(place.root)
    (place.root / "mine.yaml").write_text(experiment(blocks=2, seconds=4))
    asked = invocation.resolve("pi5-virtual", "mine.yaml", "unused", None, GIVEN)
    profile = asked.experiment.profile
    assert (profile.name, profile.min_duration_s, profile.blocks) == ("own", 4, 2)


def test_forgotten_boards_leave_the_other_keys(tmp_path: Path) -> None:
    """Forgetting drops exactly the named boards' lines, and the file with the last one."""
    known_hosts = tmp_path / "known_hosts"
    trust.forget(known_hosts, ["a"])
    assert not known_hosts.exists()
    known_hosts.write_text("a ssh-ed25519 K1\nab ssh-ed25519 K2\na ssh-rsa K3\n")
    trust.forget(known_hosts, ["a"])
    assert known_hosts.read_text() == "ab ssh-ed25519 K2\n"
    trust.forget(known_hosts, ["ab", "b"])
    assert not known_hosts.exists()

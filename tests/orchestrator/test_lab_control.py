from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support.virtual import FakeLab, make_fake_lab

from orchestrator import inventory
from orchestrator.errors import UnknownName
from orchestrator.lab import control, faults, image, machine, process
from orchestrator.lab.errors import LabError, VirtualBoardFailed
from orchestrator.lab.layout import half_made_path
from orchestrator.lab.process import ProcessId


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLab]:
    made = make_fake_lab(tmp_path / "ws", monkeypatch)
    yield made
    made.end_everything()


def test_boards_that_are_up_are_in_the_inventory_and_trusted(lab: FakeLab) -> None:
    """After `up` a board is listed beside the user's own, with its host key and a login key."""
    before = lab.place.inventory.read_bytes()
    lab.up("pi5-virtual", "pi3b-virtual")
    known = inventory.load(lab.place.inventory)
    assert list(known.boards) == ["local", "pi3b-virtual", "pi5-virtual"]
    entry = known.boards["pi5-virtual"]
    state = machine.recorded(lab.board("pi5-virtual"))
    assert (entry.address, entry.port, entry.user) == ("127.0.0.1", state.port, "pi")
    assert (entry.lab, entry.arch, entry.labels) == (True, "aarch64-dotprod", ("virtual",))
    assert entry.python == image.BOARD_PYTHON
    assert entry.ssh_config is not None
    assert str(lab.lab.login_key) in entry.ssh_config.read_text()
    keys = lab.place.known_hosts.read_text().splitlines()
    assert sorted(line.split()[0] for line in keys) == ["pi3b-virtual", "pi5-virtual"]
    assert lab.place.inventory.read_bytes() == before
    assert lab.conditions() == {"pi3b-virtual": "up", "pi5-virtual": "up"}


def test_up_of_what_is_up_changes_nothing(lab: FakeLab) -> None:
    """A second `up` leaves the emulator, its port and its keys as they are."""
    lab.up("pi5-virtual")
    state = machine.recorded(lab.board("pi5-virtual"))
    keys = lab.place.known_hosts.read_text()
    lab.up("pi5-virtual")
    assert machine.recorded(lab.board("pi5-virtual")) == state
    assert lab.place.known_hosts.read_text() == keys


def test_down_ends_the_emulator_and_keeps_the_disk(lab: FakeLab) -> None:
    """`down` asks the emulator to quit; the board stays listed, and `up` starts the same disk."""
    lab.up("pi5-virtual", "pi3b-virtual")
    board = lab.board("pi5-virtual")
    board.disk.write_text("what the board has written")
    lab.down("pi5-virtual")
    assert lab.running("pi5-virtual") is None
    assert lab.running("pi3b-virtual") is not None
    assert lab.asked("pi5-virtual")[-1] == "quit {}"
    assert not board.monitor.exists()
    assert "pi5-virtual" in inventory.load(lab.place.inventory).boards
    lab.up("pi5-virtual")
    assert board.disk.read_text() == "what the board has written"


def test_down_without_names_ends_every_board(lab: FakeLab) -> None:
    """`down` alone switches all boards off; again, it says that they were off."""
    lab.up("pi5-virtual", "pi5-virtual-2")
    lab.down()
    assert lab.conditions() == {"pi5-virtual": "off", "pi5-virtual-2": "off"}
    assert process.marked(lab.lab.root) == {}
    lab.down()
    assert lab.said[-2:] == ["pi5-virtual was off", "pi5-virtual-2 was off"]


def test_remove_leaves_no_file_and_no_process(lab: FakeLab) -> None:
    """After `remove` only the user's own files and keys are left, and nothing runs."""
    lab.place.known_hosts.parent.mkdir()
    lab.place.known_hosts.write_text("pi5 ssh-ed25519 AAAA\n")
    lab.up("pi5-virtual", "pi3b-virtual")
    lab.remove()
    assert process.marked(lab.place.lab) == {}
    left = {path for path in lab.place.root.rglob("*") if "bin" not in path.parts}
    assert left == {lab.place.inventory, lab.place.cache, lab.place.known_hosts}
    assert lab.place.known_hosts.read_text() == "pi5 ssh-ed25519 AAAA\n"
    assert list(inventory.load(lab.place.inventory).boards) == ["local"]


def test_remove_of_one_board_leaves_the_others(lab: FakeLab) -> None:
    """`remove NAME` ends and forgets that board alone."""
    lab.up("pi5-virtual", "pi3b-virtual")
    lab.remove("pi5-virtual")
    assert lab.conditions() == {"pi3b-virtual": "up"}
    assert list(inventory.load(lab.place.inventory).boards) == ["local", "pi3b-virtual"]
    assert not lab.board("pi5-virtual").path.exists()
    assert lab.place.known_hosts.read_text().split()[0] == "pi3b-virtual"


def test_a_frozen_board_is_switched_off_all_the_same(lab: FakeLab) -> None:
    """`down` does not wait for a board that SIGSTOP holds."""
    lab.up("pi5-virtual")
    faults.freeze(lab.lab, "pi5-virtual")
    assert lab.conditions() == {"pi5-virtual": "frozen"}
    lab.down()
    assert process.marked(lab.lab.root) == {}


def test_an_emulator_that_does_not_quit_is_killed(
    lab: FakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`down` ends an emulator that ignores what its monitor is told."""
    monkeypatch.setattr(machine, "QUIT_TIMEOUT_S", 0.3)
    lab.up("pi5-virtual")
    lab.down()
    (lab.board("pi5-virtual").path / "stubborn.txt").touch()
    lab.up("pi5-virtual")
    lab.down()
    assert lab.running("pi5-virtual") is None


def test_a_crash_before_the_pid_was_recorded_loses_no_emulator(
    lab: FakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emulator whose start was never written down is found by its mark, and ended by `down`."""

    def crash(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(machine, "record_process", crash)
        with pytest.raises(KeyboardInterrupt):
            lab.up("pi5-virtual")
    assert machine.recorded(lab.board("pi5-virtual")).process is None
    found = lab.running("pi5-virtual")
    assert found is not None
    assert lab.conditions() == {"pi5-virtual": "up"}
    lab.up("pi5-virtual")
    assert machine.recorded(lab.board("pi5-virtual")).process == found
    lab.down()
    assert process.marked(lab.lab.root) == {}


def test_an_emulator_whose_folder_was_deleted_is_ended(lab: FakeLab) -> None:
    """Deleting the lab's folder by hand leaves no emulator behind the next `down`."""
    lab.up("pi5-virtual")
    subprocess.run(["rm", "-r", str(lab.lab.root)], check=True)
    assert len(process.marked(lab.lab.root)) == 1
    lab.down()
    assert process.marked(lab.lab.root) == {}


def test_what_a_killed_command_left_is_swept_up(lab: FakeLab) -> None:
    """Half-made boards and images and their build processes are gone after the next command."""
    lab.up("pi5-virtual")
    half_made = [
        half_made_path(lab.lab.images / "image-2"),
        half_made_path(lab.board("pi5-virtual-2").path),
    ]
    for path in half_made:
        path.mkdir()
        (path / "disk").touch()
    builder = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env=process.environment(lab.lab.root, process.BUILDER),
    )
    assert lab.conditions() == {"pi5-virtual": "up"}
    lab.down("pi5-virtual")
    assert builder.wait(5) == -signal.SIGTERM
    assert not any(path.exists() for path in half_made)


def test_a_recycled_pid_is_never_signalled(lab: FakeLab) -> None:
    """A state file whose pid now belongs to another process makes that board off, nothing else."""
    lab.up("pi5-virtual")
    lab.down()
    board = lab.board("pi5-virtual")
    me = process.identify(os.getpid())
    assert me is not None
    stale = ProcessId(me.pid, me.start_ticks - 1, me.boot_id)
    board.write(msgspec.structs.replace(machine.recorded(board), process=stale))
    assert lab.conditions() == {"pi5-virtual": "off"}
    lab.down()
    lab.remove()  # had it signalled us, this test would have ended


def test_a_taken_port_is_replaced(lab: FakeLab) -> None:
    """Where something else listens on a board's port by now, the board gets another one."""
    lab.up("pi5-virtual")
    lab.down()
    port = machine.recorded(lab.board("pi5-virtual")).port
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        lab.up("pi5-virtual")
    listed = inventory.load(lab.place.inventory).boards["pi5-virtual"].port
    assert listed == machine.recorded(lab.board("pi5-virtual")).port != port


def test_an_emulator_that_does_not_start_is_explained(lab: FakeLab) -> None:
    """The emulator's own words are in the error, and the other boards are up."""
    lab.up("pi5-virtual", "pi3b-virtual")
    lab.down("pi5-virtual")
    (lab.board("pi5-virtual").path / "refuse.txt").write_text("cannot set up guest memory")
    with pytest.raises(VirtualBoardFailed, match=r"pi5-virtual.*cannot set up guest memory"):
        lab.up("pi5-virtual")
    assert lab.conditions() == {"pi3b-virtual": "up", "pi5-virtual": "off"}


def test_an_emulator_that_ends_while_it_boots_shows_its_console(
    lab: FakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board that dies before it lets us log in is reported with its console's last words."""

    def die(*_args: object) -> subprocess.CompletedProcess[str]:
        faults.cut_power(lab.lab, "pi5-virtual")
        return subprocess.CompletedProcess([], 255, "", "closed")

    monkeypatch.setattr(machine, "_login", die)
    with pytest.raises(VirtualBoardFailed, match=r"ended while it started:\n.*booting"):
        lab.up("pi5-virtual")


def test_a_board_that_never_lets_us_in_is_given_up(
    lab: FakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for a login has a deadline; the error has ssh's words and names the console."""
    monkeypatch.setattr(machine, "BOOT_TIMEOUT_S", 0.5)
    refused = subprocess.CompletedProcess([], 255, "", "Permission denied")
    monkeypatch.setattr(machine, "_login", lambda *_args: refused)
    with pytest.raises(VirtualBoardFailed, match=r"no login within .* Permission denied.*console"):
        lab.up("pi5-virtual")


def test_bare_boards_have_no_packages_disk(lab: FakeLab) -> None:
    """`--bare` starts a board without the packages, and it stays bare until it is told else."""
    lab.up("pi5-virtual", bare=True)
    assert "packages" not in (lab.board("pi5-virtual").path / "argv.txt").read_text()
    assert inventory.load(lab.place.inventory).boards["pi5-virtual"].python is None
    lab.down()
    lab.up("pi5-virtual")
    assert machine.recorded(lab.board("pi5-virtual")).packages is None
    with pytest.raises(LabError, match="is up without the agent's packages"):
        lab.up("pi5-virtual", bare=False)
    lab.down()
    lab.up("pi5-virtual", bare=False)
    assert machine.recorded(lab.board("pi5-virtual")).packages == "packages-1"


def test_a_board_of_an_older_image_starts_afresh(
    lab: FakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the image has changed, a board gets a new disk, is told of it, and the old one goes."""
    lab.up("pi5-virtual")
    lab.down()
    lab.board("pi5-virtual").disk.write_text("old")
    newer = lab.lab.images / "image-2"
    newer.mkdir()
    monkeypatch.setattr(image, "ensure_image", lambda _lab, _log: image.Image(newer))
    lab.up("pi5-virtual")
    assert lab.board("pi5-virtual").disk.read_text() == "overlay\n"
    assert machine.recorded(lab.board("pi5-virtual")).image == "image-2"
    assert any("starts afresh" in line for line in lab.said)
    assert not (lab.lab.images / "image-1").exists()


def test_a_state_of_another_version_makes_a_new_board(lab: FakeLab) -> None:
    """A state file that cannot be read is no obstacle: `up` makes the board again."""
    lab.up("pi5-virtual")
    lab.down()
    lab.board("pi5-virtual").state_file.write_text('{"name": "pi5-virtual"}')
    assert lab.conditions() == {}
    lab.up("pi5-virtual")
    assert lab.conditions() == {"pi5-virtual": "up"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pi4-virtual", r"no kind of virtual board is called 'pi4-virtual'; did you mean 'pi"),
        ("local", r"no kind of virtual board .*there are pi5-virtual, pi3b-virtual"),
    ],
)
def test_up_of_an_unknown_kind_is_refused(lab: FakeLab, name: str, expected: str) -> None:
    """Only the shipped kinds can be started; nothing is built or started for another."""
    with pytest.raises(UnknownName, match=expected):
        lab.up("pi5-virtual", name)
    assert not lab.lab.root.exists()


def test_a_name_of_the_users_own_board_is_refused(lab: FakeLab) -> None:
    """A virtual board cannot take the name of a board in the user's inventory."""
    lab.place.inventory.write_text("boards:\n  pi5-virtual: {address: 10.0.0.1}\n")
    with pytest.raises(LabError, match=r"has a board called 'pi5-virtual' already.*-2"):
        lab.up("pi5-virtual")


def test_commands_for_a_board_that_was_never_made_name_it(lab: FakeLab) -> None:
    """`down`, `remove` and `console` of an unknown board are answered with those there are."""
    lab.up("pi5-virtual")
    for command in (lab.down, lab.remove):
        with pytest.raises(UnknownName, match=r"no virtual board 'pi5-vitual'; did you mean"):
            command("pi5-vitual")
    with pytest.raises(UnknownName):
        control.board(lab.place, "pi3b-virtual")


def test_faults_reach_the_emulator(lab: FakeLab) -> None:
    """Cable and reset go through the monitor; freezing and power cuts hit the very process."""
    lab.up("pi5-virtual")
    faults.set_link(lab.lab, "pi5-virtual", up=False)
    faults.set_link(lab.lab, "pi5-virtual", up=True)
    faults.reset(lab.lab, "pi5-virtual")
    asked = [line for line in lab.asked("pi5-virtual") if "capabilities" not in line]
    assert asked == [
        'set_link {"name": "nic0", "up": false}',
        'set_link {"name": "nic0", "up": true}',
        "system_reset {}",
    ]
    first = lab.running("pi5-virtual")
    faults.freeze(lab.lab, "pi5-virtual")
    faults.thaw(lab.lab, "pi5-virtual")
    assert lab.conditions() == {"pi5-virtual": "up"}
    faults.cut_power(lab.lab, "pi5-virtual")
    assert lab.conditions() == {"pi5-virtual": "off"}
    faults.power_on(lab.lab, "pi5-virtual", clock_utc="1970-01-01T00:00:00")
    assert lab.running("pi5-virtual") not in (None, first)
    assert "base=1970-01-01T00:00:00" in (lab.board("pi5-virtual").path / "argv.txt").read_text()


def test_a_fault_of_a_board_that_is_off_is_refused(lab: FakeLab) -> None:
    """Every fault of a board that is off says how to start it."""
    lab.up("pi5-virtual")
    lab.down()
    for fault in (faults.freeze, faults.thaw, faults.cut_power, faults.reset):
        with pytest.raises(VirtualBoardFailed, match=r"orchestrator lab up pi5-virtual"):
            fault(lab.lab, "pi5-virtual")

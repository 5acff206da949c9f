from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from orchestrator.lab.errors import LabError
from orchestrator.lab.layout import BoardState, Lab, half_made_path, locked, replace_file
from orchestrator.lab.process import ProcessId

STATE = BoardState(
    name="pi5-virtual", image="image-1", packages=None, port=2222,
    process=ProcessId(17, 4711, "boot"),
)  # fmt: skip


def silent(_line: str) -> None:
    pass


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    """What is recorded of a board comes back whole, readable by its owner only."""
    board = Lab(tmp_path).board("pi5-virtual")
    board.path.mkdir(parents=True)
    board.write(STATE)
    assert board.read() == STATE
    assert board.state_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"name": "x"}', '{"name": 1}', "\udcff",
     '{"name":"x","image":"i","packages":null,"port":1,"extra":2}'],
)  # fmt: skip
def test_a_state_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    """Torn, foreign and newer state files are no state, never a traceback."""
    board = Lab(tmp_path).board("pi5-virtual")
    assert board.read() is None
    board.path.mkdir(parents=True)
    board.state_file.write_bytes(text.encode(errors="surrogateescape"))
    assert board.read() is None


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    """A write that fails leaves the old file as it was."""
    path = tmp_path / "file"
    replace_file(path, b"old")
    half_made_path(path).mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"


def test_half_made_things_are_told_from_finished_ones(tmp_path: Path) -> None:
    """Folders under their working name are no boards, and are listed for the sweep."""
    lab = Lab(tmp_path)
    lab.board("pi5-virtual").path.mkdir(parents=True)
    new = half_made_path(lab.board("pi3b-virtual").path)
    new.mkdir()
    assert [board.name for board in lab.boards()] == ["pi5-virtual"]
    assert lab.half_made() == [new]


def test_one_command_at_a_time_holds_the_lab(tmp_path: Path) -> None:
    """A second command waits, says so, and goes on when the first has ended."""
    lab, said, order = Lab(tmp_path / "lab"), [], []

    def second() -> None:
        with locked(lab, said.append):
            order.append("second")

    waiter = threading.Thread(target=second)
    with locked(lab, silent):
        waiter.start()
        while not said:
            waiter.join(0.01)
        order.append("first")
    waiter.join(10)
    assert order == ["first", "second"]
    assert "another `orchestrator lab` is at work" in said[0]
    assert lab.root.stat().st_mode & 0o777 == 0o700


def test_the_lab_is_not_waited_for_without_end(tmp_path: Path) -> None:
    """Whoever waits for a command that hangs is told which process it is and what to do."""
    lab, said = Lab(tmp_path / "lab"), []
    with (
        locked(lab, silent),
        pytest.raises(LabError, match=rf"lab/lock: process {os.getpid()}, .*0 s.* end it .*again"),
        locked(lab, said.append, patience_s=0.2),
    ):
        pass
    assert "waiting for it to end" in said[0]
    with locked(lab, silent, patience_s=0):  # a lab that is free needs no patience
        pass


def test_a_holder_that_left_no_name_is_an_error_too(tmp_path: Path) -> None:
    """A lock file that says nothing, or nonsense, costs the message its process and no more."""
    lab = Lab(tmp_path / "lab")
    with locked(lab, silent):
        (lab.root / "lock").write_bytes(b"\xff\x1b[2J")
        with pytest.raises(LabError, match="another process") as caught, locked(lab, silent, 0):
            pass
    assert str(caught.value).isprintable()


def test_a_lock_whose_folder_was_removed_is_taken_anew(tmp_path: Path) -> None:
    """Whoever waited while `lab remove` deleted the folder locks the new one, not the old."""
    lab, said = Lab(tmp_path / "lab"), []
    held = threading.Event()

    def second() -> None:
        with locked(lab, said.append):
            assert (lab.root / "lock").exists()
            held.set()

    waiter = threading.Thread(target=second)
    with locked(lab, silent):
        waiter.start()
        while not said:
            waiter.join(0.01)
        shutil.rmtree(lab.root)
    assert held.wait(10)
    waiter.join(10)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """Where the lab cannot be written, the error names the file."""
    (tmp_path / "lab").write_text("in the way")
    with (
        pytest.raises(LabError, match=r"lab/lock: File exists"),
        locked(Lab(tmp_path / "lab"), silent),
    ):
        pass

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.boards import agent_options, ended
from support.sshd import Sshd

from agent import wire
from orchestrator import cli
from orchestrator.boards.base import Session
from orchestrator.boards.local import LocalBoard
from orchestrator.boards.shell import LocalShell
from orchestrator.deploy import HOME_MARKER
from orchestrator.errors import BoardBusy, BoardFailure, BoardUnreachable
from orchestrator.provision import daemon, removal

SHELL = LocalShell("here")


@dataclass
class Used:
    """A home with a running agent in it, and a session to that agent."""

    folder: Path
    session: Session

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def lock(self) -> Path:
        return self.folder / "board.lock"

    def remove(self, *, force: bool = False) -> list[str]:
        said: list[str] = []
        found = removal.look(SHELL, str(self.home))
        assert found is not None
        if not force:
            removal.refuse_loss(found, "here")
        removal.remove(SHELL, "here", found, said.append, lock=str(self.lock), force=force)
        return said


@pytest.fixture
def used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Used]:
    monkeypatch.setattr(daemon, "RETIRE_WAIT_S", 2)
    options = agent_options(tmp_path)
    board = LocalBoard("here", home=tmp_path / "home", python=sys.executable, extra=options)
    with ended(board):
        session = board.connect()
        yield Used(tmp_path, session)
        session.close()


def runs(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_nothing_is_left(used: Used) -> None:
    """The agent stops, and of its home, its models and its lock file nothing is left."""
    pid = used.session.hello("host").pid
    used.session.lease(wire.LeaseRequest(holder="tester", run_id="r1", ttl_s=60.0))
    used.session.release("r1")
    (used.home / "artifacts" / ("0" * 64)).write_bytes(b"model")
    assert used.lock.exists()
    assert used.remove() == [f"{used.home} is removed"]
    assert not runs(pid)
    assert list(used.folder.iterdir()) == []


def test_what_others_put_there_stays(used: Used) -> None:
    """A file that is not the agent's stays where it is, and is named."""
    (used.home / "thesis.txt").write_text("mine")
    (said,) = used.remove()
    assert "thesis.txt" in said
    assert [path.name for path in used.home.iterdir()] == ["thesis.txt"]


def test_a_directory_that_is_not_ours(tmp_path: Path) -> None:
    """A directory without the marker is refused, and nothing in it is touched."""
    (tmp_path / "artifacts").mkdir()
    found = removal.look(SHELL, str(tmp_path))
    assert found is not None
    with pytest.raises(BoardFailure, match=HOME_MARKER):
        removal.refuse_loss(found, "pi5")
    assert [path.name for path in tmp_path.iterdir()] == ["artifacts"]


def test_no_marker_among_files_of_others(tmp_path: Path) -> None:
    """A home that holds somebody's files when the agent is put there is never marked."""
    (tmp_path / "thesis.txt").write_text("mine")
    board = LocalBoard("here", home=tmp_path, python=sys.executable, extra=agent_options(tmp_path))
    with ended(board):
        board.connect().close()
        assert not (tmp_path / HOME_MARKER).exists()


def test_a_run_is_using_the_board(used: Used) -> None:
    """A board that a run holds is refused; with force its agent is ended all the same."""
    pid = used.session.hello("host").pid
    used.session.lease(wire.LeaseRequest(holder="tester", run_id="r1", ttl_s=60.0))
    with pytest.raises(BoardBusy, match="--force"):
        used.remove()
    assert runs(pid)
    assert used.home.exists()
    used.remove(force=True)
    assert not runs(pid)
    assert not used.home.exists()


def test_trials_that_no_host_has(used: Used) -> None:
    """Measured trials that no host has stored are not thrown away without force."""
    trial = used.home / "trials" / ("a" * 32)
    trial.mkdir(parents=True)
    (trial / "spec.json").write_text("{}")
    with pytest.raises(BoardFailure, match="1 measured trials were not stored"):
        used.remove()
    assert trial.exists()


def test_no_other_process_is_ended(tmp_path: Path) -> None:
    """A number that an ended agent left in its lock file is nobody's to be signalled."""
    other = subprocess.Popen(["sleep", "60"])
    try:
        text = json.dumps({"pid": other.pid, "digest": "0" * 64})
        (tmp_path / "agent.lock").write_text(text)
        assert daemon.stop(SHELL, str(tmp_path), force=True) == "absent"
        time.sleep(0.1)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_nothing_there(tmp_path: Path) -> None:
    """A board without a home has nothing to remove."""
    assert removal.look(SHELL, str(tmp_path / "none")) is None


def test_a_lock_that_is_held_stays(tmp_path: Path) -> None:
    """The board's lock file is left alone while another account's agent holds it."""
    home, lock = tmp_path / "home", tmp_path / "board.lock"
    home.mkdir()
    (home / HOME_MARKER).touch()
    found = removal.look(SHELL, str(home))
    assert found is not None
    holder = subprocess.Popen(
        ["flock", str(lock), "-c", "echo held; exec sleep 60"], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    with holder, holder.stdout:
        holder.stdout.readline()
        removal.remove(SHELL, "here", found, lambda text: None, lock=str(lock))
        assert lock.exists()
        holder.kill()


def test_commands_end_in_time() -> None:
    """A command that does not end is given up, and its process ended."""
    started = time.monotonic()
    with pytest.raises(BoardUnreachable, match="did not end within"):
        SHELL.run("exec sleep 60", 0.2)
    assert time.monotonic() - started < 5


@pytest.fixture
def workspace(tmp_path: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with one board behind sshd, whose host key is recorded."""
    (tmp_path / ".orchestrator").mkdir()
    (tmp_path / ".orchestrator" / "known_hosts").write_text(sshd.known_hosts_line("pi5"))
    (tmp_path / "inventory.yaml").write_text(
        f"ssh_config: {sshd.ssh_config}\nboards:\n  pi5:\n    ssh_alias: loop\n"
        f"    home: {tmp_path}/home\n    lock: {tmp_path}/board.lock\n"
        f"  old:\n    ssh_alias: loop\n    python: /opt/python3\n  here:\n    local: true\n"
        f"    home: {tmp_path}/here\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.ssh
def test_the_command_asks_first(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`boards remove` shows what it would remove and does so only after a yes."""
    home = workspace / "home"
    home.mkdir()
    (home / HOME_MARKER).touch()
    for answer, left in (("n\n", True), ("y\n", False)):
        read, write = os.pipe()
        os.write(write, answer.encode())
        os.close(write)
        with os.fdopen(read) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            cli.main(["boards", "remove", "pi5"])
        assert home.exists() is left
        assert str(home) in capsys.readouterr().out
    assert cli.main(["boards", "remove", "pi5", "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_a_local_board_can_be_removed(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The home of this machine's own agent is removed without ssh."""
    home = workspace / "here"
    home.mkdir()
    (home / HOME_MARKER).touch()
    assert cli.main(["boards", "remove", "here", "--yes"]) == 0
    assert not home.exists()


@pytest.mark.parametrize(("name", "words"), [("here", "is this machine"), ("old", "always wins")])
def test_boards_that_would_not_use_it(
    workspace: Path, name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Boards that would never use what is provisioned are refused before they are contacted."""
    assert cli.main(["boards", "provision", name]) == 2
    assert words in capsys.readouterr().err

"""This machine as a board: what can be in the way of its agent."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from support.boards import agent_options, ended

from orchestrator.boards.base import Session
from orchestrator.boards.local import LocalBoard
from orchestrator.deploy import Bundle
from orchestrator.errors import AgentDied, BoardDiskFull, BoardFailure, PackagesMissing


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., LocalBoard]:
    def made(python: str = sys.executable, home: Path | None = None) -> LocalBoard:
        where = tmp_path / "home" if home is None else home
        return LocalBoard("here", home=where, python=python, extra=agent_options(tmp_path))

    return made


def refused(board: LocalBoard) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the tests below look at the class
        board.connect()
    return caught.value


def test_no_such_python(make: Callable[..., LocalBoard]) -> None:
    """An interpreter that is not there is named."""
    error = refused(make("/no/such/python"))
    assert isinstance(error, AgentDied)
    assert "here: cannot run /no/such/python: No such file" in str(error)


def test_a_python_that_is_none(make: Callable[..., LocalBoard]) -> None:
    """A program that is no interpreter is reported with what it said and its exit code."""
    error = refused(make("/bin/false"))
    assert isinstance(error, AgentDied)
    assert "exit code 1: it said nothing" in str(error)


def test_bare_python(make: Callable[..., LocalBoard], tmp_path: Path) -> None:
    """An interpreter without the agent's packages is refused, with the file that lists them."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    error = refused(make(str(tmp_path / "bare/bin/python")))
    assert isinstance(error, PackagesMissing)
    assert "No module named" in str(error)
    assert "agent/requirements.lock" in str(error)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, BoardDiskFull), (errno.EDQUOT, BoardDiskFull), (errno.EROFS, BoardFailure)],
)
def test_no_place_for_the_agent(
    number: int, kind: type, make: Callable[..., LocalBoard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the agent's files cannot be written, the error names the place and what to do."""

    def fail(bundle: Bundle, home: Path) -> Path:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Bundle, "install", fail)
    error = refused(make())
    assert type(error) is kind
    assert os.strerror(number) in str(error)
    assert "`home:`" in str(error)


def test_a_home_that_is_a_file(make: Callable[..., LocalBoard], tmp_path: Path) -> None:
    """A home that cannot be a directory is an error of the board, not of this program."""
    (tmp_path / "file").write_text("")
    error = refused(make(home=tmp_path / "file" / "home"))
    assert isinstance(error, BoardFailure)
    assert "Not a directory" in str(error)


@pytest.mark.slow
def test_many_connections_one_agent(make: Callable[..., LocalBoard]) -> None:
    """Connections that are opened at the same moment on a fresh board all meet the same agent."""
    board, start, found = make(), threading.Barrier(4), []

    def connect() -> None:
        start.wait()
        session: Session = board.connect()
        found.append(session.hello(socket.gethostname()).pid)
        session.close()

    with ended(board):
        threads = [threading.Thread(target=connect) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(found) == 4
        assert len(set(found)) == 1

"""The host itself as a board: the same agent in a process of its own, without ssh."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from agent import wire
from orchestrator.boards.base import Session
from orchestrator.boards.link import DialFailed, ProcessLink
from orchestrator.boards.welcome import require_packages
from orchestrator.deploy import Bundle
from orchestrator.errors import AgentDied, BoardDiskFull, BoardFailure, PackagesMissing

DIAL_TIMEOUT_S = 20.0


class LocalBoard:
    """An agent on this machine, in `home`, run by `python`."""

    def __init__(self, name: str, *, home: Path, python: str, extra: tuple[str, ...] = ()) -> None:
        self._name = name
        self._home = home
        self._python = python
        self._extra = extra

    @property
    def name(self) -> str:
        """The name in the inventory."""
        return self._name

    def connect(self) -> Session:
        """Install the agent's bundle if it is not there, start it, and shake hands."""
        directory = self._install()
        argv = [
            self._python, "-I", str(directory), "dial", "--home", str(self._home), *self._extra,
        ]  # fmt: skip
        try:
            link = ProcessLink.dial(argv, self._name, DIAL_TIMEOUT_S)
        except DialFailed as exc:
            raise self._explain(directory, exc) from exc
        except OSError as exc:
            raise AgentDied(f"{self._name}: cannot run {self._python}: {exc.strerror}") from exc
        session = Session(self._name, link)
        try:
            require_packages(session.hello(socket.gethostname()), self._name)
        except BaseException:
            session.close()
            raise
        return session

    def _install(self) -> Path:
        try:
            return Bundle.of_this_version().install(self._home)
        except OSError as exc:
            kind = BoardDiskFull if exc.errno in (errno.ENOSPC, errno.EDQUOT) else BoardFailure
            raise kind(
                f"cannot put the agent into {self._home}: {exc.strerror}; make room there, or set "
                f"`home:` in the inventory",
                self._name,
            ) from exc

    def _explain(self, directory: Path, failed: DialFailed) -> wire.BenchError:
        missing = [line for line in failed.stderr.splitlines() if "ModuleNotFoundError" in line]
        if missing:
            return PackagesMissing(
                f"{self._name}: {self._python} lacks what the agent needs ({missing[-1].strip()}); "
                f"install agent/requirements.lock for it, or set `python:` in the inventory"
            )
        return AgentDied(f"{self._name}: the agent did not start from {directory} ({failed})")

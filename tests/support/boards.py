"""Boards for tests: the fake one, a local agent process, and one behind a real ssh."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from support.clock import FakeClock
from support.onnxmodels import as_file, tiny_model
from support.sshd import Sshd

from agent import wire
from orchestrator.boards.base import Board
from orchestrator.boards.fake import FakeAgent, FakeBoard
from orchestrator.boards.local import LocalBoard
from orchestrator.boards.ssh import SshBoard
from orchestrator.boards.sshcommand import SshTarget
from orchestrator.clock import Clock, SystemClock
from orchestrator.transfer import File


@dataclass
class Rig:
    """A board with a model that runs, a file that is no model, and its own idea of time."""

    kind: str
    board: Board
    clock: Clock
    model: File
    garbage: File
    kill_agent: Callable[[], None]

    def trial(self, artifact: File, trial_id: str, run_id: str, **scenario: int) -> wire.TrialSpec:
        """A short trial with synthetic input."""
        numbers = {
            "warmup_min_samples": 2, "warmup_min_duration_ns": 0, "min_samples": 8,
            "min_duration_ns": 0, "max_duration_ns": 5_000_000_000, **scenario,
        }  # fmt: skip
        return wire.TrialSpec(
            trial_id=trial_id,
            run_id=run_id,
            artifact=wire.ArtifactRef(
                sha256=artifact.sha256, size_bytes=artifact.size_bytes, format="onnx"
            ),
            options=wire.RuntimeOptions(intra_op_num_threads=1),
            scenario=wire.Scenario(**numbers),
            inputs=wire.Inputs(),
            deadline_ns=60_000_000_000,
        )


def files(folder: Path) -> tuple[File, File]:
    """A model that runs and a file that is none."""
    garbage = folder / "garbage.onnx"
    garbage.write_bytes(b"this is no model" * 100)
    return as_file(tiny_model(folder / "tiny.onnx")), as_file(garbage)


def agent_options(folder: Path) -> tuple[str, ...]:
    """A lock of its own, so that tests neither wait for nor disturb a real run."""
    return ("--idle-s", "30", "--lock", str(folder / "board.lock"))


@contextlib.contextmanager
def fake_rig(folder: Path) -> Iterator[Rig]:
    model, garbage = files(folder)
    clock = FakeClock()
    refused = wire.Failure(kind=wire.FailureKind.MODEL_LOAD, message="not a model")
    agent = FakeAgent(clock, refuses={garbage.sha256: refused})
    yield Rig("fake", FakeBoard("fake", agent), clock, model, garbage, lambda: None)


@contextlib.contextmanager
def local_rig(folder: Path) -> Iterator[Rig]:
    model, garbage = files(folder)
    home = folder / "home"
    board = LocalBoard("here", home=home, python=sys.executable, extra=agent_options(folder))
    with ended(board) as kill:
        yield Rig("local", board, SystemClock(), model, garbage, kill)


def ssh_target(server: Sshd, folder: Path, name: str = "loop") -> SshTarget:
    """How to reach the test's sshd, its key recorded under the board's name."""
    known_hosts = folder / "known hosts"  # a blank in a path must not matter
    known_hosts.write_text(server.known_hosts_line(name))
    return SshTarget(
        name=name,
        address="127.0.0.1",
        known_hosts=known_hosts,
        user=server.user,
        port=server.port,
        ssh_config=server.ssh_config,
    )


@contextlib.contextmanager
def ssh_rig(folder: Path, server: Sshd) -> Iterator[Rig]:
    model, garbage = files(folder)
    target = ssh_target(server, folder)
    home, python = str(folder / "home"), sys.executable
    board = SshBoard(target, home=home, python=python, extra=agent_options(folder))
    with ended(board) as kill:
        yield Rig("ssh", board, SystemClock(), model, garbage, kill)


@contextlib.contextmanager
def ended(board: Board) -> Iterator[Callable[[], None]]:
    """Yield a way to kill the board's agent, and kill it at the end, by its pid."""
    pids: set[int] = set()

    def kill() -> None:
        with contextlib.suppress(wire.BenchError):
            session = board.connect()
            pids.add(session.hello(socket.gethostname()).pid)
            session.close()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                _await_end(pid)
        pids.clear()

    try:
        yield kill
    finally:
        kill()


def _await_end(pid: int) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        with contextlib.suppress(OSError):
            if " Z " in Path(f"/proc/{pid}/stat").read_text():
                return
        time.sleep(0.01)

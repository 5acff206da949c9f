"""Labs for tests: one whose emulator is a small daemon, and one of QEMU's virtual boards."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator import cli
from orchestrator.boards.sshcommand import SshTarget
from orchestrator.lab import control, faults, hosttools, image, machine, monitor, process
from orchestrator.lab.errors import HostToolsMissing
from orchestrator.lab.image import Image
from orchestrator.lab.layout import BoardFolder, Lab
from orchestrator.lab.process import ProcessId
from orchestrator.workspace import Workspace

INVENTORY = "boards:\n  local: {local: true}\n"
_FAKE = Path(__file__).with_name("fakeqemu.py")


@dataclass
class FakeLab:
    """A workspace with a lab; `said` is what a user would have been told."""

    place: Workspace
    said: list[str] = field(default_factory=list)

    @property
    def lab(self) -> Lab:
        return Lab(self.place.lab)

    def board(self, name: str) -> BoardFolder:
        return self.lab.board(name)

    def running(self, name: str) -> ProcessId | None:
        return machine.running(self.lab, self.board(name))

    def up(self, *names: str, bare: bool | None = None) -> None:
        control.up(self.place, names, bare=bare, log=self.said.append)

    def down(self, *names: str) -> None:
        control.down(self.place, names, self.said.append)

    def remove(self, *names: str) -> None:
        control.remove(self.place, names, self.said.append)

    def asked(self, name: str) -> list[str]:
        """What the emulator's monitor was asked."""
        notes = self.board(name).path / "asked.txt"
        return notes.read_text().splitlines() if notes.exists() else []

    def conditions(self) -> dict[str, str]:
        return {status.name: status.condition for status in control.status(self.place)}

    def end_everything(self) -> None:
        for role in set(process.marked(self.lab.root).values()):
            assert process.kill_all(self.lab.root, role, 5)


def make_fake_lab(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeLab:
    """A workspace in `folder`, and a PATH whose first QEMU is the fake one."""
    (folder / "bin").mkdir(parents=True)
    _script(folder / "bin" / "qemu-system-aarch64", f'exec {sys.executable} -I {_FAKE} "$@"')
    _script(folder / "bin" / "qemu-img", "for disk; do :; done; echo overlay >$disk")
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(hosttools, "require", lambda: None)
    monkeypatch.setattr(image, "ensure_image", lambda lab, _log: Image(_made(lab, "image-1")))
    monkeypatch.setattr(image, "ensure_packages", lambda lab, _log: _made(lab, "packages-1").name)
    monkeypatch.setattr(machine, "_login", _let_in)
    monkeypatch.setattr(machine, "_emulator_version", lambda: (7, 2))
    (folder / "inventory.yaml").write_text(INVENTORY)
    return FakeLab(Workspace(folder / "inventory.yaml"))


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def _made(lab: Lab, name: str) -> Path:
    path = lab.images / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def _let_in(*_args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], 0, "", "")


@dataclass(frozen=True)
class RealLab:
    """A workspace whose virtual boards are QEMU's."""

    place: Workspace

    @property
    def lab(self) -> Lab:
        return Lab(self.place.lab)

    def cli(self, *words: str) -> int:
        """One command line of `orchestrator`, in this process; its exit code."""
        with contextlib.chdir(self.place.root):
            return cli.main(words)

    def up(self, *names: str, bare: bool | None = None) -> None:
        control.up(self.place, names, bare=bare, log=print)

    def target(self, name: str) -> SshTarget:
        return control.target_of(self.place, machine.recorded(self.lab.board(name)))

    def ssh(
        self, name: str, command: str, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.target(name).argv(command), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def said(self, name: str, command: str) -> str:
        """What a command on the board prints; it must succeed."""
        result = self.ssh(name, command)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def as_root(self, name: str, command: str, timeout_s: float = 60) -> None:
        """Run a command in the root shell on a board's console, to its end."""
        said, ended = b"", b"ended:0"  # the shell repeats what it is told, but not this
        with monitor.connected(self.lab.board(name).console, timeout_s) as console:
            console.sendall(f"{command}; echo ended:$?\n".encode())
            while ended not in said:
                piece = console.recv(4096)
                assert piece, said
                said += piece

    def wait_until_up(self, name: str) -> None:
        faults.wait_until_up(self.lab, name, self.target(name))


def real_lab(folder: Path) -> RealLab:
    """A workspace for QEMU's boards.

    Where this host cannot run them the test is skipped, unless ORCHESTRATOR_REQUIRE=virtual says
    that it must be able to: then it fails.
    """
    try:
        hosttools.require()
    except HostToolsMissing as exc:
        if os.environ.get("ORCHESTRATOR_REQUIRE") == "virtual":
            raise
        pytest.skip(" ".join(str(exc).split()))
    (folder / "inventory.yaml").write_text(INVENTORY)
    return RealLab(Workspace(folder / "inventory.yaml"))

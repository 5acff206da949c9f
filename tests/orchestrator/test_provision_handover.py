"""`provision --service` over a real sshd, whose systemctl writes down what it is told."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.boards import agent_options, ssh_target
from support.fakewheels import make_wheels
from support.sshd import Sshd

from orchestrator import cli
from orchestrator.boards.remote import open_remote
from orchestrator.boards.sshcommand import SshTarget
from orchestrator.provision import service, survey
from orchestrator.provision.install import Wish, bring
from orchestrator.provision.larder import Larder
from orchestrator.provision.lock import shipped_pins

pytestmark = [pytest.mark.ssh, pytest.mark.slow]

PINS = shipped_pins()
SYSTEMCTL = """#!/bin/sh
case "$*" in *show-environment*) [ ! -e "$HOME/no-manager" ]; exit;; esac
echo "$*" >> "$HOME/calls"
case "$*" in *is-active*) [ -e "$HOME/active" ];; *restart*) touch "$HOME/active";; esac
"""


@dataclass
class Served:
    """A board whose login has that systemctl, and what was said."""

    target: SshTarget
    login: Path
    folder: Path
    larders: dict[str, Larder]
    said: list[str] = field(default_factory=list)

    @property
    def home(self) -> str:
        return str(self.folder / "home")

    def bring(self, version: str = "one", *, as_service: bool = True, linger: bool = False) -> None:
        """Provision once, on a board whose account lingers or not."""
        self.said.clear()
        wish = Wish("loop", as_service, extra=agent_options(self.folder))
        with open_remote(self.target) as remote:
            found = survey.ask(remote, "loop", self.home)
            found = dataclasses.replace(found, linger=linger)
            bring(remote, wish, found, self.larders[version], self.said.append)

    def has(self, words: str) -> bool:
        return any(words in line for line in self.said)

    def calls(self) -> list[str]:
        """What systemctl was told since the last time, without questions."""
        path = self.login / "calls"
        told = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line for line in told if "is-active" not in line]

    @property
    def started(self) -> list[str]:
        """The calls that write down, enable and start the unit."""
        name = service.unit_name(self.home)
        return ["--user daemon-reload", f"--user enable --quiet {name}", f"--user restart {name}"]

    @property
    def unit(self) -> Path:
        return self.login / ".config/systemd/user" / service.unit_name(self.home)

    def environment(self) -> str:
        return (Path(self.home) / "env" / "current").readlink().name


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of the packages, a folder each."""
    folder = tmp_path_factory.mktemp("wheels")
    make_wheels(folder / "one", PINS)
    make_wheels(folder / "two", PINS, {"numpy": "newer = True\n"})
    return folder


@pytest.fixture
def board(sshd: Sshd, tmp_path: Path, wheels: Path) -> Iterator[Served]:
    programs = sshd.login / "bin"
    programs.mkdir()
    (programs / "systemctl").write_text(SYSTEMCTL)
    (programs / "systemctl").chmod(0o755)
    larders = {
        name: Larder(tmp_path / f"kept-{name}", PINS, offline=wheels / name)
        for name in ("one", "two")
    }
    yield Served(ssh_target(sshd, tmp_path), sshd.login, tmp_path, larders)
    for name in ("bin", ".config"):
        shutil.rmtree(sshd.login / name, ignore_errors=True)
    for name in ("calls", "active", "no-manager"):
        (sshd.login / name).unlink(missing_ok=True)


def test_a_unit_and_again(board: Served) -> None:
    """The unit is written, started and named with what linger needs; again, nothing is moved."""
    board.bring()
    assert board.has(f"the agent runs as the user unit {board.unit.name}")
    assert board.has("`sudo loginctl enable-linger")
    assert f'"{board.home}/env/{board.environment()}/bin/python3"' in board.unit.read_text()
    assert f'"{board.folder}/board.lock"' in board.unit.read_text()
    assert board.calls() == board.started
    board.bring()
    assert board.has("nothing was moved")
    assert not board.has("user unit")
    assert board.calls() == []


def test_a_lingering_account(board: Served) -> None:
    """Where linger is on, it is not spoken of."""
    board.bring(linger=True)
    assert board.has("the agent runs as the user unit")
    assert not board.has("enable-linger")


def test_a_new_version_restarts_the_unit(board: Served) -> None:
    """A later call without --service keeps the unit: it is restarted with the new version."""
    board.bring()
    first = board.environment()
    board.calls()
    board.bring("two", as_service=False)
    assert board.environment() != first
    assert f"/env/{board.environment()}/" in board.unit.read_text()
    assert f"/env/{first}/" not in board.unit.read_text()
    assert board.calls() == board.started


def test_a_unit_that_stopped_is_started(board: Served) -> None:
    """A unit that does not run any more is started again, though nothing has to be moved."""
    board.bring()
    board.calls()
    (board.login / "active").unlink()
    board.bring()
    assert board.has("nothing was moved")
    assert board.calls() == board.started


def test_without_a_user_manager(board: Served) -> None:
    """Without a user manager the board is made ready, and the reason for no unit is said."""
    (board.login / "no-manager").touch()
    board.bring()
    assert board.has("ready: ")
    assert board.has("no systemd user manager answers on loop")
    assert board.has("the agent starts on demand")
    assert not board.unit.exists()
    assert board.calls() == []


def test_the_whole_command(
    board: Served,
    sshd: Sshd,
    wheels: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`boards provision --service` makes a unit; without that option there is none."""
    (board.folder / "inventory.yaml").write_text(
        f"ssh_config: {sshd.ssh_config}\nboards:\n  loop:\n    address: 127.0.0.1\n"
        f"    user: {sshd.user}\n    port: {sshd.port}\n    home: {board.home}\n"
        f"    lock: {board.folder}/board.lock\n"
    )
    known_hosts = board.folder / ".orchestrator" / "known_hosts"
    known_hosts.parent.mkdir()
    known_hosts.write_text(sshd.known_hosts_line("loop"))
    monkeypatch.chdir(board.folder)
    command = ["boards", "provision", "loop", "--wheels", str(wheels / "one")]
    assert cli.main(command) == 0
    assert not board.unit.exists()
    assert cli.main([*command, "--service"]) == 0
    assert f"loop: the agent runs as the user unit {board.unit.name}" in capsys.readouterr().out
    assert board.unit.exists()
    assert board.calls() == board.started

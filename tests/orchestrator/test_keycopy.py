"""`boards trust --copy-key` against a server that takes a password, with OpenSSH as the check."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support.passwordsshd import PASSWORD, PasswordServer, running_password_server
from support.sshd import keygen

from orchestrator import cli, keycopy
from orchestrator.boards.shell import LocalShell
from orchestrator.boards.sshcommand import SshTarget
from orchestrator.errors import BoardFailure, BoardUnreachable, HostKeyRejected, TransferFailed


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PasswordServer]:
    with running_password_server(tmp_path) as serving:
        yield serving


@pytest.fixture
def target(tmp_path: Path, server: PasswordServer) -> SshTarget:
    """The server as a trusted board, and a key pair of the user's."""
    keygen(tmp_path / "id_ed25519")
    config = tmp_path / "ssh_config"
    config.write_text(f"Host *\n  IdentityFile {tmp_path}/id_ed25519\n  IdentitiesOnly yes\n")
    known_hosts = tmp_path / "known_hosts"
    kind, key, *_ = server.host_key.with_suffix(".pub").read_text().split()
    known_hosts.write_text(f"pi5 {kind} {key}\n")
    return SshTarget("pi5", "127.0.0.1", known_hosts, "pi", server.port, ssh_config=config)


def test_the_key_opens_the_door(target: SshTarget, server: PasswordServer) -> None:
    """A password-only login becomes one with the user's key, in files that only he can read."""
    problem = keycopy.login_problem(target)
    assert problem is not None
    assert "ermission denied" in problem
    keycopy.copy_key(target, keycopy.public_key(target), PASSWORD)
    assert keycopy.login_problem(target) is None
    assert server.passwords == [PASSWORD]
    assert server.authorized_keys.stat().st_mode & 0o777 == 0o600
    assert server.authorized_keys.parent.stat().st_mode & 0o777 == 0o700


def test_keys_that_are_there_stay(target: SshTarget, server: PasswordServer) -> None:
    """Other keys stay, a missing line end is made good, and a key is not added twice."""
    server.authorized_keys.parent.mkdir()
    server.authorized_keys.write_text("ssh-ed25519 AAAAother someone@else")
    key = keycopy.public_key(target)
    for _ in range(2):
        keycopy.copy_key(target, key, PASSWORD)
    assert server.authorized_keys.read_text() == f"ssh-ed25519 AAAAother someone@else\n{key}\n"


def test_a_wrong_password(target: SshTarget, server: PasswordServer) -> None:
    """A wrong password is refused in words that do not have it."""
    with pytest.raises(BoardUnreachable, match="the password of pi was refused") as refused:
        keycopy.copy_key(target, keycopy.public_key(target), "wrong one")
    assert "wrong one" not in str(refused.value)
    assert not server.authorized_keys.exists()


def test_no_password_for_a_stranger(target: SshTarget, server: PasswordServer) -> None:
    """A host with another key than the recorded one is never offered the password."""
    target.known_hosts.write_text(
        "pi5 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGhRZkUaIGrTjtgqeyaBS9LcIzMTzBvH7bbHJyVkPHrn\n"
    )
    with pytest.raises(HostKeyRejected):
        keycopy.copy_key(target, "ssh-ed25519 AAAA", PASSWORD)
    target.known_hosts.write_text("")
    with pytest.raises(HostKeyRejected):
        keycopy.copy_key(target, "ssh-ed25519 AAAA", PASSWORD)
    assert server.passwords == []


def test_a_server_that_takes_no_password(target: SshTarget, server: PasswordServer) -> None:
    """A board whose sshd takes no password is explained."""
    server.ways = "publickey"
    with pytest.raises(BoardUnreachable, match=r"takes no password \(but publickey\)"):
        keycopy.copy_key(target, keycopy.public_key(target), PASSWORD)


def test_a_key_that_does_not_open(target: SshTarget, tmp_path: Path) -> None:
    """A key that ssh does not have is found out at once, with what may help."""
    other = keygen(tmp_path / "other").with_suffix(".pub").read_text().strip()
    with pytest.raises(TransferFailed, match="does not open the login"):
        keycopy.copy_key(target, other, PASSWORD)


def test_no_key_at_all(target: SshTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key of one's own the message has the command that makes one."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / "id_ed25519.pub").unlink()
    with pytest.raises(BoardFailure, match="ssh-keygen -t ed25519"):
        keycopy.public_key(target)


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    """What stands in the way of authorized_keys is named."""
    (tmp_path / ".ssh").write_text("a file where a directory belongs")
    with pytest.raises(TransferFailed, match="authorized_keys could not be written"):
        keycopy.append(LocalShell("pi5", {"HOME": str(tmp_path)}), "pi5", "ssh-ed25519 AAAA me")


def test_the_whole_command(
    target: SshTarget,
    server: PasswordServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`boards trust --copy-key` records the key, asks once, and the password is seen nowhere."""
    (tmp_path / "inventory.yaml").write_text(
        f"ssh_config: ssh_config\nboards:\n  pi5:\n    address: 127.0.0.1\n    user: pi\n"
        f"    port: {server.port}\n"
    )
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []

    def prompt(text: str, *, hide_input: bool) -> str:
        assert hide_input
        asked.append(text)
        return PASSWORD

    monkeypatch.setattr(click, "prompt", prompt)
    with caplog.at_level(logging.DEBUG):
        assert cli.main(["boards", "trust", "pi5", "--yes", "--copy-key"]) == 0
        assert cli.main(["boards", "trust", "pi5", "--yes", "--copy-key"]) == 0
    said = capsys.readouterr()
    assert "opens it already" in said.out
    assert asked == ["Password of pi@pi5 (used once, kept nowhere)"]
    assert PASSWORD not in said.out + said.err + caplog.text
    assert not [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and PASSWORD.encode() in path.read_bytes()
    ]

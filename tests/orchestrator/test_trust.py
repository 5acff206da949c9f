"""Recording a board's host key, with a real sshd and the command as users type it."""

from __future__ import annotations

import dataclasses
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.boards import ssh_target
from support.sshd import Sshd, free_port

from orchestrator import trust
from orchestrator.boards.sshcommand import SshTarget
from orchestrator.commands.boards.trust import command
from orchestrator.errors import BoardUnreachable, HostKeyRejected, UnknownName

pytestmark = pytest.mark.ssh


@pytest.fixture
def target(sshd: Sshd, tmp_path: Path) -> SshTarget:
    """A board whose key nobody has recorded."""
    made = ssh_target(sshd, tmp_path)
    made.known_hosts.unlink()
    return made


@pytest.fixture
def workspace(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an inventory of this machine and two boards behind the test's sshd."""
    board = f"{{address: 127.0.0.1, port: {sshd.port}, user: {sshd.user}, labels: [lab]}}"
    (tmp_path / "inventory.yaml").write_text(
        f"ssh_config: {sshd.ssh_config}\n"
        f"boards:\n  pi5: {board}\n  pi4: {board}\n  here: {{local: true}}\n"
        f"  off: {{address: 127.0.0.1, port: {free_port()}}}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def known(workspace: Path) -> list[str]:
    path = workspace / ".orchestrator" / "known_hosts"
    return path.read_text().splitlines() if path.exists() else []


def typed(*args: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(command, args, input=answer)


def fingerprint(sshd: Sshd) -> str:
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(sshd.host_key.with_suffix(".pub"))],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return shown.stdout.split()[1]


def other_key(folder: Path) -> str:
    path = folder / "other_key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=30
    )
    kind, key, *_ = path.with_suffix(".pub").read_text().split()
    return f"{kind} {key}"


# ---------------------------------------------------------------- the key


def test_offered_key(target: SshTarget, sshd: Sshd) -> None:
    """The key is the server's, under the board's name, with the fingerprint people compare."""
    key = trust.offered_key(target)
    assert f"{key.line}\n" == sshd.known_hosts_line("loop")
    assert key.fingerprint == f"ED25519 {fingerprint(sshd)}"
    assert not target.known_hosts.exists()


def test_a_config_that_hashes_names(target: SshTarget, sshd: Sshd, tmp_path: Path) -> None:
    """The name stays readable although Debian's own ssh configuration hashes names."""
    config = tmp_path / "config"
    config.write_text(sshd.ssh_config.read_text() + "Host *\n  HashKnownHosts yes\n")
    key = trust.offered_key(dataclasses.replace(target, ssh_config=config))
    assert key.line.startswith("loop ssh-ed25519 ")


def test_no_login_is_made(target: SshTarget, sshd: Sshd) -> None:
    """Fetching a key offers the stranger neither a key nor a password."""
    log = sshd.folder / "sshd.log"
    before = log.stat().st_size
    trust.offered_key(target)
    said = log.read_bytes()[before:].decode()
    assert "Accepted" not in said
    assert "publickey" not in said.replace("[preauth]", "")


def test_nothing_listens(target: SshTarget) -> None:
    """A board that is off is unreachable, with what to check."""
    with pytest.raises(BoardUnreachable, match="nothing listens there"):
        trust.offered_key(dataclasses.replace(target, port=free_port()))


def test_no_ssh(target: SshTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ssh on this machine the error says so."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BoardUnreachable, match="cannot run ssh here: No such file"):
        trust.offered_key(target)


def test_a_jump_host_that_is_not_known(target: SshTarget, sshd: Sshd, tmp_path: Path) -> None:
    """Trusting a board trusts no jump host on the way to it."""
    config = tmp_path / "config"
    config.write_text(
        sshd.ssh_config.read_text() + f"Host *\n  UserKnownHostsFile {tmp_path}/nobody\n"
    )
    with pytest.raises(HostKeyRejected, match="the jump host loop"):
        trust.offered_key(dataclasses.replace(target, jump="loop", ssh_config=config))


# ---------------------------------------------------------------- the file


def test_record(target: SshTarget) -> None:
    """A recorded key replaces the board's old ones and leaves those of other boards alone."""
    target.known_hosts.write_text("other ssh-rsa A\nloop ssh-rsa B\nloop2 ssh-rsa C\nloop x D\n")
    trust.record(target, trust.HostKey("loop ssh-ed25519 E", "f"))
    assert target.known_hosts.read_text().splitlines() == [
        "other ssh-rsa A",
        "loop2 ssh-rsa C",
        "loop ssh-ed25519 E",
    ]
    assert trust.recorded_lines(target) == ["loop ssh-ed25519 E"]
    assert stat.S_IMODE(target.known_hosts.stat().st_mode) == 0o600


def test_record_in_a_new_folder(target: SshTarget, tmp_path: Path) -> None:
    """The file and its folder are made where they are missing."""
    fresh = dataclasses.replace(target, known_hosts=tmp_path / "a" / "b" / "known_hosts")
    assert trust.recorded_lines(fresh) == []
    trust.record(fresh, trust.HostKey("loop ssh-ed25519 E", "f"))
    assert trust.recorded_lines(fresh) == ["loop ssh-ed25519 E"]


def test_foreign_bytes_survive(target: SshTarget) -> None:
    """A line that somebody wrote in another encoding is kept as it is."""
    target.known_hosts.write_bytes(b"# K\xfcche\nloop ssh-rsa B\n")
    trust.record(target, trust.HostKey("loop ssh-ed25519 E", "f"))
    assert target.known_hosts.read_bytes() == b"# K\xfcche\nloop ssh-ed25519 E\n"


# ---------------------------------------------------------------- the command


def test_yes(workspace: Path, sshd: Sshd) -> None:
    """`--yes` records the key under the board's name, without a question, and ssh is content."""
    result = typed("pi5", "--yes")
    assert result.exit_code == 0, result.output
    assert fingerprint(sshd) in result.output
    assert [f"{line}\n" for line in known(workspace)] == [sshd.known_hosts_line("pi5")]
    target = dataclasses.replace(
        ssh_target(sshd, workspace, "pi5"), known_hosts=workspace / ".orchestrator" / "known_hosts"
    )
    assert subprocess.run(target.argv("true"), check=False, timeout=30).returncode == 0


@pytest.mark.parametrize(("answer", "kept"), [("y\n", 1), ("n\n", 0), ("\n", 0), ("", 0)])
def test_question(workspace: Path, answer: str, kept: int) -> None:
    """Nothing is recorded unless a person says yes."""
    result = typed("pi5", answer=answer)
    assert "Is this the board's own key?" in result.output
    assert (result.exit_code == 0) == (kept == 1)
    assert len(known(workspace)) == kept


def test_again(workspace: Path) -> None:
    """A key that is recorded already needs no question."""
    typed("pi5", "--yes")
    result = typed("pi5")
    assert result.exit_code == 0
    assert "is recorded already" in result.output
    assert len(known(workspace)) == 1


def test_changed_key(workspace: Path, tmp_path: Path) -> None:
    """A board that shows another key than before is warned about, and no is respected."""
    typed("pi5", "--yes")
    file = workspace / ".orchestrator" / "known_hosts"
    file.write_text(f"pi5 {other_key(tmp_path)}\n")
    before = known(workspace)
    refused = typed("pi5", answer="n\n")
    assert "ANOTHER KEY is recorded" in refused.output
    assert known(workspace) == before
    assert typed("pi5", "--yes").exit_code == 0
    assert known(workspace) != before
    assert len(known(workspace)) == 1


def test_several_boards(workspace: Path) -> None:
    """Each board has a key of its own in the file, and one key under two names is a warning."""
    assert "WARNING" not in typed("pi5", "--yes").output
    second = typed("pi4", "--yes")
    assert second.exit_code == 0
    assert "WARNING: pi5 and pi4 share the host key" in second.output
    assert "`orchestrator boards trust pi4`" in second.output
    assert [line.split()[0] for line in known(workspace)] == ["pi5", "pi4"]


@pytest.mark.parametrize("name", ["all", "label:lab", "pi5,pi4"])
def test_one_at_a_time(workspace: Path, name: str) -> None:
    """Keys are compared by a person, so boards are trusted one at a time."""
    result = typed(name, "--yes")
    assert result.exit_code == 2
    assert "one at a time" in result.output
    assert known(workspace) == []


def test_this_machine(workspace: Path) -> None:
    """This machine has no host key to trust."""
    result = typed("here", "--yes")
    assert result.exit_code == 2
    assert "is this machine" in result.output


def test_unknown_board(workspace: Path) -> None:
    """A board that is not in the inventory is refused with the nearest name."""
    error = typed("pi6", "--yes").exception
    assert isinstance(error, UnknownName)
    assert "did you mean 'pi" in str(error)


def test_board_is_off(workspace: Path) -> None:
    """A board that does not answer leaves the file as it was."""
    assert isinstance(typed("off", "--yes").exception, BoardUnreachable)
    assert known(workspace) == []

"""How ssh is run, and what its words mean; the words are those of a real ssh and sshd."""

from __future__ import annotations

import dataclasses
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.boards import ssh_target
from support.sshd import Sshd, free_port

from agent.wire import BenchError
from orchestrator.boards.sshcommand import SshTarget, explain, remote_path
from orchestrator.errors import BoardUnreachable, HostKeyRejected

TARGET = SshTarget("pi5", "10.0.0.5", Path("/w/known hosts"), user="pi", port=2222, jump="gate")


@pytest.fixture
def target(sshd: Sshd, tmp_path: Path) -> SshTarget:
    return ssh_target(sshd, tmp_path)


def ssh(target: SshTarget, command: str = "echo reached") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        target.argv(command), capture_output=True, text=True, timeout=30, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def refusal(target: SshTarget) -> BenchError:
    """What ssh's failure to reach a target is explained as."""
    done = ssh(target)
    assert done.returncode == 255, done
    assert "reached" not in done.stdout
    error = explain(done.stderr, target)
    assert error is not None, done.stderr
    return error


def new_key(folder: Path) -> str:
    """The line of a key that is nobody's."""
    path = folder / "other_key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=30
    )
    kind, key, *_ = path.with_suffix(".pub").read_text().split()
    return f"{kind} {key}\n"


# ---------------------------------------------------------------- arguments


def test_options() -> None:
    """Every run of ssh is told what must not depend on the user's own settings."""
    argv = TARGET.argv("true")
    options = {argv[i + 1] for i, word in enumerate(argv) if word == "-o"}
    assert {
        "StrictHostKeyChecking=yes",
        "BatchMode=yes",
        "HostKeyAlias=pi5",
        'UserKnownHostsFile="/w/known hosts"',
        "GlobalKnownHostsFile=/dev/null",
        "ControlPath=none",
        "RemoteCommand=none",
    } <= options
    assert argv[-3:] == ["--", "10.0.0.5", "true"]
    text = " ".join(argv)
    assert "-p 2222" in text
    assert "-l pi" in text
    assert "-J gate" in text
    assert "-F" not in argv


def test_what_is_not_given_is_left_to_ssh() -> None:
    """User, port and jump host come from ssh's own configuration unless the inventory has them."""
    bare = SshTarget("pi5", "pi5.local", Path("/k"), ssh_config=Path("/c"))
    argv = bare.argv("true")
    assert argv[:3] == ["ssh", "-F", "/c"]
    assert not {"-p", "-l", "-J"} & set(argv)


def test_an_address_is_no_option() -> None:
    """An address that looks like an option is not taken for one."""
    argv = dataclasses.replace(TARGET, address="-oProxyCommand=evil").argv("true")
    assert argv[argv.index("-oProxyCommand=evil") - 1] == "--"


@pytest.mark.parametrize(
    "path", ["/a/b", "/with blank/x", "~/x", "~/with blank", "/q'uote", "$(touch x)", "/~/x", "a;b"]
)
def test_paths_for_the_far_shell(path: str, tmp_path: Path) -> None:
    """The far shell expands a leading ~/ and nothing else of a path."""
    done = subprocess.run(
        ["sh", "-c", f"printf %s {remote_path(path)}"],
        env={"HOME": "/home/pi"}, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = path.replace("~/", "/home/pi/", 1) if path.startswith("~/") else path
    assert done.stdout == expected
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- a real ssh


@pytest.mark.ssh
def test_reached(target: SshTarget) -> None:
    """A board whose key is recorded under its name is reached; its file's path may have blanks."""
    done = ssh(target)
    assert (done.returncode, done.stdout, done.stderr) == (0, "reached\n", "")
    assert " " in str(target.known_hosts)


@pytest.mark.ssh
def test_an_alias_of_the_ssh_config(target: SshTarget) -> None:
    """A Host of the user's ssh config is enough; the key still belongs to the board's name."""
    alias = dataclasses.replace(target, address="loop", user=None, port=None)
    assert ssh(alias).returncode == 0
    other = dataclasses.replace(alias, name="another-board")
    assert isinstance(refusal(other), HostKeyRejected)


@pytest.mark.ssh
def test_settings_that_would_get_in_the_way(target: SshTarget, sshd: Sshd, tmp_path: Path) -> None:
    """A command, a terminal or a shared connection in the user's config changes nothing."""
    config = tmp_path / "config"
    config.write_text(
        sshd.ssh_config.read_text()
        + "Host *\n  RemoteCommand echo no\n  RequestTTY force\n  ControlMaster auto\n"
        f"  ControlPath {tmp_path}/control\n  LogLevel DEBUG\n  ForwardX11 yes\n"
    )
    done = ssh(dataclasses.replace(target, ssh_config=config))
    assert (done.returncode, done.stdout, done.stderr) == (0, "reached\n", "")
    assert not (tmp_path / "control").exists()


@pytest.mark.ssh
def test_unknown_key(target: SshTarget) -> None:
    """A board whose key is not recorded is refused, with the command that records it."""
    target.known_hosts.unlink()
    error = refusal(target)
    assert isinstance(error, HostKeyRejected)
    assert "not recorded yet" in str(error)
    assert "`orchestrator boards trust loop`" in str(error)
    assert not target.known_hosts.exists()


@pytest.mark.ssh
def test_changed_key(target: SshTarget, tmp_path: Path) -> None:
    """A board that shows another key than the recorded one is refused as such."""
    before = f"loop {new_key(tmp_path)}"
    target.known_hosts.write_text(before)
    error = refusal(target)
    assert isinstance(error, HostKeyRejected)
    assert "not the one recorded" in str(error)
    assert target.known_hosts.read_text() == before


@pytest.mark.ssh
def test_wrong_user(target: SshTarget) -> None:
    """A refused login says what to check, and quotes ssh."""
    error = refusal(dataclasses.replace(target, user="nobody-of-that-name"))
    assert isinstance(error, BoardUnreachable)
    assert "`user:`" in str(error)
    assert "Permission denied" in str(error)


@pytest.mark.ssh
def test_wrong_key(target: SshTarget, tmp_path: Path) -> None:
    """A key that the board does not know is a refused login too."""
    new_key(tmp_path)
    config = tmp_path / "config"
    config.write_text(f"Host *\n  IdentityFile {tmp_path}/other_key\n  IdentitiesOnly yes\n")
    assert "the login was refused" in str(refusal(dataclasses.replace(target, ssh_config=config)))


@pytest.mark.ssh
def test_nothing_listens(target: SshTarget) -> None:
    """A port where nothing listens is said to be that."""
    error = refusal(dataclasses.replace(target, port=free_port()))
    assert isinstance(error, BoardUnreachable)
    assert "nothing listens there" in str(error)


@pytest.mark.ssh
def test_unresolvable_name(target: SshTarget) -> None:
    """A name that nobody knows points to the inventory."""
    error = refusal(dataclasses.replace(target, address="no-such-board.invalid"))
    assert "`address:` in the inventory" in str(error)
    assert "no-such-board.invalid" in str(error)


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port whose listener hangs up on whoever comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)

        def hang_up() -> None:
            try:
                connection, _ = server.accept()
                connection.close()
            except OSError:
                return

        thread = threading.Thread(target=hang_up)
        thread.start()
        yield server.getsockname()[1]
    thread.join()


@pytest.mark.ssh
def test_no_ssh_server(target: SshTarget, deaf_port: int) -> None:
    """A listener that is no ssh server is an unreachable board."""
    assert isinstance(refusal(dataclasses.replace(target, port=deaf_port)), BoardUnreachable)


# ---------------------------------------------------------------- behind a jump host


@pytest.fixture
def behind(target: SshTarget, sshd: Sshd, tmp_path: Path) -> SshTarget:
    """The board reached through the same sshd as its own jump host, whose key ssh itself knows."""
    known = tmp_path / "jump_known"
    known.write_text(sshd.known_hosts_line(f"[127.0.0.1]:{sshd.port}"))
    config = tmp_path / "config"
    config.write_text(sshd.ssh_config.read_text() + f"Host *\n  UserKnownHostsFile {known}\n")
    return dataclasses.replace(target, jump="loop", ssh_config=config)


@pytest.mark.ssh
def test_jump(behind: SshTarget) -> None:
    """A board behind a jump host is reached through it."""
    assert ssh(behind, 'echo reached "${SSH_CONNECTION%% *}"').stdout == "reached 127.0.0.1\n"


@pytest.mark.ssh
def test_jump_host_is_checked_too(behind: SshTarget, tmp_path: Path) -> None:
    """A jump host whose key ssh does not know is refused, and named."""
    (tmp_path / "jump_known").unlink()
    error = refusal(behind)
    assert isinstance(error, HostKeyRejected)
    assert "the jump host loop: its host key is not recorded yet" in str(error)
    assert "boards trust" not in str(error)


@pytest.mark.ssh
def test_jump_host_with_another_key(behind: SshTarget, sshd: Sshd, tmp_path: Path) -> None:
    """A jump host that shows another key than before is refused as well."""
    (tmp_path / "jump_known").write_text(f"[127.0.0.1]:{sshd.port} {new_key(tmp_path)}")
    assert "the jump host loop: its host key is not the one recorded" in str(refusal(behind))


@pytest.mark.ssh
def test_board_behind_a_jump_host_is_checked(behind: SshTarget) -> None:
    """A good jump host does not vouch for the board behind it."""
    behind.known_hosts.write_text("")
    error = refusal(behind)
    assert isinstance(error, HostKeyRejected)
    assert "`orchestrator boards trust loop`" in str(error)


@pytest.mark.ssh
def test_nothing_behind_the_jump_host(behind: SshTarget) -> None:
    """What the jump host could not reach is quoted, not that the connection ended."""
    down = dataclasses.replace(behind, port=free_port())
    assert "Connection refused" in str(refusal(down))
    lost = dataclasses.replace(behind, address="no-such-board.invalid")
    assert "cannot be resolved" in str(refusal(lost))


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("ssh: connect to host pi port 22: No route to host", "no route"),
        ("ssh: connect to host pi port 22: Connection timed out", "switched on"),
        ("Received disconnect: 2: Too many authentication failures", "name one"),
        ("Unable to negotiate with 10.0.0.5: no matching host key type found.", "no algorithm"),
        ("Connection reset by 10.0.0.5 port 22", "sshd log"),
    ],
)
def test_words(words: str, advice: str) -> None:
    """Words of ssh's become an unreachable board with something to do, and are quoted."""
    error = explain(f"Warning: something else\n{words}\nmore\n", TARGET)
    assert isinstance(error, BoardUnreachable)
    assert advice in str(error)
    assert f"[ssh: {words}]" in str(error)
    assert "pi5 (10.0.0.5)" in str(error)


@pytest.mark.parametrize("words", ["", "sh: 1: python3: not found", "Traceback (most recent call"])
def test_words_of_others(words: str) -> None:
    """What is not ssh's own is left to others to explain."""
    assert explain(words, TARGET) is None


def test_command_lines_are_lists() -> None:
    """A command line can be shown and typed again as it was run."""
    assert shlex.split(shlex.join(TARGET.argv("echo 'a b'"))) == TARGET.argv("echo 'a b'")

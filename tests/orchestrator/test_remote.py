"""Commands and files through fabric, against a real sshd: its keys are checked here as well."""

from __future__ import annotations

import dataclasses
import os
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest
from support.boards import ssh_target
from support.sshd import Sshd, free_port

from orchestrator.boards import remote as remote_module
from orchestrator.boards.remote import Remote, open_remote
from orchestrator.boards.sshcommand import SshTarget
from orchestrator.deploy import HALF_MADE, HOME_MARKER, Bundle
from orchestrator.errors import (
    BoardDiskFull,
    BoardUnreachable,
    HostKeyRejected,
    TransferFailed,
)

pytestmark = pytest.mark.ssh


@pytest.fixture
def target(sshd: Sshd, tmp_path: Path) -> SshTarget:
    return ssh_target(sshd, tmp_path)


@pytest.fixture
def remote(target: SshTarget) -> Iterator[Remote]:
    with open_remote(target) as opened:
        yield opened


@pytest.fixture
def noisy(sshd: Sshd) -> Iterator[None]:
    """A login script that prints, as many do."""
    script = sshd.login / ".bashrc"
    script.write_text("echo Welcome to the pi; echo be careful >&2\n")
    yield
    script.unlink()


def refused(target: SshTarget) -> Exception:
    with pytest.raises((BoardUnreachable, HostKeyRejected)) as caught, open_remote(target):
        pytest.fail("a connection was opened")
    return caught.value


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def new_key(folder: Path) -> str:
    path = folder / "other_key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=30
    )
    return path.with_suffix(".pub").read_text()


# ---------------------------------------------------------------- who is at the other end


def test_unknown_key(target: SshTarget) -> None:
    """fabric refuses a board whose key is not recorded, though by itself it takes any."""
    target.known_hosts.unlink()
    error = refused(target)
    assert isinstance(error, HostKeyRejected)
    assert "`orchestrator boards trust loop`" in str(error)
    assert not target.known_hosts.exists()


def test_the_key_of_another_board(target: SshTarget, sshd: Sshd) -> None:
    """A key counts for the board under whose name it is recorded, not for its address."""
    address = f"[127.0.0.1]:{sshd.port}"
    target.known_hosts.write_text(sshd.known_hosts_line(address) + sshd.known_hosts_line("other"))
    assert isinstance(refused(target), HostKeyRejected)


def test_changed_key(target: SshTarget, tmp_path: Path) -> None:
    """fabric refuses a board that shows another key than the recorded one."""
    target.known_hosts.write_text(f"loop {new_key(tmp_path)}")
    error = refused(target)
    assert isinstance(error, HostKeyRejected)
    assert "not the one recorded" in str(error)


def test_nothing_is_asked_of_a_stranger(target: SshTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the key is verified nothing is offered, no password either."""
    tried: list[object] = []
    monkeypatch.setattr(paramiko.SSHClient, "_auth", lambda *args: tried.append(args))
    target.known_hosts.write_text("")
    with pytest.raises(HostKeyRejected), open_remote(target, password="secret"):  # noqa: S106
        pytest.fail("a connection was opened")
    assert tried == []


def test_a_damaged_file_of_keys(target: SshTarget) -> None:
    """A file of keys that holds nonsense trusts nobody."""
    target.known_hosts.write_text("loop ssh-ed25519 nonsense\n\x00\xff\nloop\n", encoding="latin-1")
    with pytest.raises((BoardUnreachable, HostKeyRejected)), open_remote(target):
        pytest.fail("a connection was opened")


def test_wrong_user(target: SshTarget) -> None:
    """A refused login says what to check."""
    error = refused(dataclasses.replace(target, user="nobody-of-that-name"))
    assert isinstance(error, BoardUnreachable)
    assert "`user:`" in str(error)


def test_nothing_listens(target: SshTarget) -> None:
    """A port where nothing listens is an unreachable board."""
    assert isinstance(refused(dataclasses.replace(target, port=free_port())), BoardUnreachable)


def test_unresolvable_name(target: SshTarget) -> None:
    """A name that nobody knows points to the inventory."""
    error = refused(dataclasses.replace(target, address="no-such-board.invalid"))
    assert "`address:`" in str(error)


def test_alias(target: SshTarget) -> None:
    """A Host of the user's ssh config brings address, port, user and key."""
    alias = dataclasses.replace(target, address="loop", user=None, port=None)
    with open_remote(alias) as opened:
        assert opened.run("echo reached").stdout == "reached\n"


@pytest.mark.parametrize("how", ["Include", "Match"])
def test_what_only_openssh_reads(how: str, target: SshTarget, sshd: Sshd, tmp_path: Path) -> None:
    """An alias from an included file, or of a Match that runs a command, works as with ssh."""
    included, config = tmp_path / "more.conf", tmp_path / "config"
    head = "Host elsewhere\n" if how == "Include" else 'Match originalhost elsewhere exec "true"\n'
    included.write_text(f"{head}  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n")
    config.write_text(f"Include {included}\n{sshd.ssh_config.read_text()}")
    alias = dataclasses.replace(
        target, address="elsewhere", user=None, port=None, ssh_config=config
    )
    with open_remote(alias) as opened:
        assert opened.run("echo reached").stdout == "reached\n"


def test_a_configuration_that_ssh_refuses(target: SshTarget, tmp_path: Path) -> None:
    """A mistake in the user's ssh configuration is told in ssh's own words."""
    config = tmp_path / "config"
    config.write_text("Host *\n  Prot 22\n")
    error = refused(dataclasses.replace(target, ssh_config=config))
    assert "ssh cannot use its configuration" in str(error)
    assert "prot" in str(error).lower()


def test_without_openssh(
    target: SshTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no OpenSSH, the plain settings of the file are still read."""
    monkeypatch.setenv("PATH", str(tmp_path))
    alias = dataclasses.replace(target, address="loop", user=None, port=None)
    with open_remote(alias) as opened:
        assert opened.run("echo reached").stdout == "reached\n"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["inventory", "config"])
def test_jump(how: str, target: SshTarget, sshd: Sshd, tmp_path: Path) -> None:
    """A jump host is reached by OpenSSH, which checks its key; then the board's own is checked."""
    known, config = tmp_path / "jump_known", tmp_path / "config"
    known.write_text(sshd.known_hosts_line(f"[localhost]:{sshd.port}"))
    lines = f"Host *\n  UserKnownHostsFile {known}\n"
    jump = f"{sshd.user}@localhost:{sshd.port}"  # ssh refuses to jump from a host to itself
    if how == "config":
        lines += f"Host behind\n  HostName 127.0.0.1\n  Port {sshd.port}\n  ProxyJump {jump}\n"
    config.write_text(sshd.ssh_config.read_text() + lines)
    behind = dataclasses.replace(target, ssh_config=config)
    if how == "config":
        behind = dataclasses.replace(behind, address="behind", port=None)
    else:
        behind = dataclasses.replace(behind, jump=jump)
    with open_remote(behind) as opened:
        assert opened.run("echo reached").stdout == "reached\n"
    target.known_hosts.write_text("")
    assert isinstance(refused(behind), HostKeyRejected)
    target.known_hosts.write_text(sshd.known_hosts_line("loop"))
    known.write_text("")
    assert isinstance(refused(behind), BoardUnreachable | HostKeyRejected)


# ---------------------------------------------------------------- commands


def test_run(remote: Remote) -> None:
    """A command's exit code and words come back as they are."""
    done = remote.run("echo out; echo err >&2; exit 7")
    assert (done.exit_code, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_feed(remote: Remote, tmp_path: Path) -> None:
    """What is fed arrives byte for byte, also when it is much."""
    data = os.urandom(3_000_000)
    done = remote.feed(f"cat > '{tmp_path}/fed'", (data[:1000], data[1000:]))
    assert done.exit_code == 0
    assert (tmp_path / "fed").read_bytes() == data


def test_a_command_that_does_not_read(remote: Remote) -> None:
    """A command that ends without reading its input is a result, not an error."""
    done = remote.feed("echo no >&2; exit 3", (bytes(4_000_000),))
    assert done.exit_code == 3


def test_a_command_that_does_not_end(remote: Remote) -> None:
    """A command is given up at its time limit."""
    started = time.monotonic()
    with pytest.raises(BoardUnreachable, match="did not end in time"):
        remote.run("sleep 60", timeout_s=0.3)
    assert time.monotonic() - started < 5


def test_a_command_that_says_too_much(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """A board cannot fill this host's memory with words."""
    monkeypatch.setattr(remote_module, "OUTPUT_LIMIT_BYTES", 10_000)
    with pytest.raises(BoardUnreachable, match="said more than 10000 bytes"):
        remote.run("yes", timeout_s=20)


@pytest.mark.usefixtures("noisy")
def test_a_login_script_that_prints(remote: Remote, tmp_path: Path) -> None:
    """A login script that prints disturbs neither files nor commands."""
    remote.put(b"bytes", f"{tmp_path}/file")
    assert (tmp_path / "file").read_bytes() == b"bytes"
    done = remote.run("exit 5")
    assert (done.exit_code, done.stdout) == (5, "Welcome to the pi\n")


# ---------------------------------------------------------------- the agent's bundle


BUNDLE = Bundle(
    "ab" * 32, {"agent/__init__.py": b"", "agent/x/y.py": b"1\n", "__main__.py": b"2\n"}
)


def test_install(remote: Remote, tmp_path: Path) -> None:
    """A bundle arrives whole, in a home that only its account can enter, and nothing else stays."""
    home = tmp_path / "new" / "home"
    remote.install(BUNDLE, str(home))
    assert contents(home / "bundles") == {
        f"{BUNDLE.directory_name}/{name}": data for name, data in BUNDLE.files.items()
    }
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert (home / HOME_MARKER).is_file()


def test_install_again(remote: Remote, tmp_path: Path) -> None:
    """A second installation changes nothing."""
    remote.install(BUNDLE, str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    remote.install(BUNDLE, str(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_home_of_the_login(remote: Remote, sshd: Sshd) -> None:
    """A home that begins with ~/ is below the board user's home directory."""
    remote.install(BUNDLE, "~/with blank/.agent")
    assert (sshd.login / "with blank/.agent/bundles" / BUNDLE.directory_name).is_dir()


def test_what_a_cut_installation_left(remote: Remote, tmp_path: Path) -> None:
    """Half a bundle is never taken for a whole one, and is cleared away when it is old."""
    bundles = tmp_path / "bundles"
    for name in (f"{HALF_MADE}old", f"{HALF_MADE}new", BUNDLE.directory_name):
        (bundles / name / "agent").mkdir(parents=True)
    os.utime(bundles / f"{HALF_MADE}old", (1, 1))
    remote.install(BUNDLE, str(tmp_path))
    assert contents(bundles / BUNDLE.directory_name) == BUNDLE.files
    assert {path.name for path in bundles.iterdir()} == {BUNDLE.directory_name, f"{HALF_MADE}new"}


def test_a_cut_archive(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that arrives cut is refused, leaves nothing, and the next try succeeds."""
    whole = BUNDLE.tar()
    with monkeypatch.context() as cut:
        cut.setattr(Bundle, "tar", lambda self: whole[: len(whole) // 2])
        with pytest.raises(TransferFailed, match="could not install the agent"):
            remote.install(BUNDLE, str(tmp_path))
    assert list((tmp_path / "bundles").iterdir()) == []
    remote.install(BUNDLE, str(tmp_path))
    assert contents(tmp_path / "bundles" / BUNDLE.directory_name) == BUNDLE.files


def test_a_connection_that_breaks(target: SshTarget, tmp_path: Path) -> None:
    """A connection that breaks under an installation leaves no half bundle in its place."""
    with open_remote(target) as opened:
        plain = opened.put

        def cut(data: bytes, path: str) -> None:
            plain(data, path)
            if path.endswith(".tar.gz"):
                opened._connection.client.get_transport().sock.close()

        opened.put = cut  # type: ignore[method-assign]
        with pytest.raises(BoardUnreachable):
            opened.install(BUNDLE, str(tmp_path))
    assert not (tmp_path / "bundles" / BUNDLE.directory_name).exists()
    with open_remote(target) as opened:
        opened.install(BUNDLE, str(tmp_path))
    assert contents(tmp_path / "bundles" / BUNDLE.directory_name) == BUNDLE.files


def test_installing_at_the_same_time(target: SshTarget, tmp_path: Path) -> None:
    """Several hosts that install at once all succeed, and one whole bundle is there."""
    start = threading.Barrier(4)

    def install(_number: int) -> None:
        with open_remote(target) as opened:
            start.wait(30)
            opened.install(BUNDLE, str(tmp_path))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(install, range(4)))
    assert {path.name for path in (tmp_path / "bundles").iterdir()} == {BUNDLE.directory_name}
    assert contents(tmp_path / "bundles" / BUNDLE.directory_name) == BUNDLE.files


def test_a_home_that_cannot_be_made(remote: Remote) -> None:
    """A home that cannot be made is said to be that, in the board's words."""
    with pytest.raises(TransferFailed, match=r"could not install the agent: .*/dev/null"):
        remote.install(BUNDLE, "/dev/null/home")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk(remote: Remote) -> None:
    """A board without room for the agent is named as that."""
    with pytest.raises(BoardDiskFull, match="no space left"):
        remote.put(bytes(100), "/dev/full")

"""Keys that only an ssh-agent holds, against a real sshd and a real agent; OpenSSH as the check."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.boards import ssh_target
from support.leftovers import open_files
from support.sshagent import SSH_AGENT, running_agent
from support.sshd import Sshd, keygen

from orchestrator import keycopy
from orchestrator.boards.remote import open_remote
from orchestrator.boards.sshcommand import SshTarget
from orchestrator.errors import BoardFailure, BoardUnreachable

pytestmark = [
    pytest.mark.ssh,
    pytest.mark.skipif(SSH_AGENT is None, reason="OpenSSH's ssh-agent is not installed"),
]

TOO_MANY = 7
"""One key more than sshd lets anyone try."""

Configured = Callable[..., SshTarget]


@pytest.fixture
def key(sshd: Sshd) -> Path:
    """The one key that opens the door; no configuration of these tests names its file."""
    return sshd.folder / "user_key"


@pytest.fixture
def agent(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An agent with that key, and nothing in the environment that leads to it."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with running_agent(tmp_path, key) as path:
        yield path


@pytest.fixture
def configured(sshd: Sshd, tmp_path: Path) -> Configured:
    """The board, with these lines as the user's whole ssh configuration."""

    def made(*lines: str) -> SshTarget:
        config = tmp_path / "config"
        config.write_text("\n".join(["Host *", *lines, ""]))
        return dataclasses.replace(ssh_target(sshd, tmp_path), ssh_config=config)

    return made


def opens(target: SshTarget) -> bool:
    """Whether fabric gets in; it has to agree with OpenSSH itself."""
    by_ssh = keycopy.login_problem(target) is None
    try:
        with open_remote(target) as remote:
            by_fabric = remote.run("echo reached").stdout == "reached\n"
    except BoardUnreachable:
        by_fabric = False
    assert by_fabric == by_ssh
    return by_fabric


def refusal(target: SshTarget) -> str:
    with pytest.raises(BoardUnreachable) as caught, open_remote(target):
        pytest.fail("a connection was opened")
    return str(caught.value)


def public(path: Path) -> str:
    return path.with_suffix(".pub").read_text().strip()


def other_keys(folder: Path, count: int) -> list[Path]:
    return [keygen(folder / f"other{i}") for i in range(count)]


def test_the_agent_of_the_environment(
    agent: Path, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that only the agent of SSH_AUTH_SOCK holds logs in."""
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    assert opens(configured())


def test_the_agent_of_the_configuration(agent: Path, configured: Configured) -> None:
    """A key that only the agent of IdentityAgent holds logs in."""
    assert opens(configured(f'IdentityAgent "{agent}"'))
    assert "SSH_AUTH_SOCK" not in os.environ


def test_an_agent_named_by_a_variable(
    agent: Path, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IdentityAgent may name a variable of the environment."""
    monkeypatch.setenv("MY_AGENT", str(agent))
    assert opens(configured("IdentityAgent $MY_AGENT"))


def test_no_agent_wanted(
    agent: Path, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`IdentityAgent none` keeps the keys of a running agent out."""
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    assert not opens(configured("IdentityAgent none"))


def test_an_agent_that_is_gone(configured: Configured, tmp_path: Path) -> None:
    """A socket without an agent is a refused login that points to ssh-agent, like no key at all."""
    gone = configured(f"IdentityAgent {tmp_path}/gone", "IdentityFile none", "IdentitiesOnly yes")
    assert "the login was refused" in refusal(gone)
    assert "ssh-agent" in refusal(gone)


def test_many_keys(tmp_path: Path, key: Path, configured: Configured) -> None:
    """Of an agent with more keys than sshd lets one try, the one is offered that is named."""
    pub = key.with_suffix(".pub")
    with running_agent(tmp_path, *other_keys(tmp_path, TOO_MANY), key) as agent:
        line = f'IdentityAgent "{agent}"'
        assert opens(configured(line, f"IdentityFile {pub}"))
        assert opens(configured(line, f"IdentityFile {pub}", "IdentitiesOnly yes"))
        assert not opens(configured(line, "IdentityFile none"))


def test_only_the_named_keys(agent: Path, configured: Configured, tmp_path: Path) -> None:
    """With IdentitiesOnly the agent's key is not offered when another one is named."""
    (other,) = other_keys(tmp_path, 1)
    lines = (f'IdentityAgent "{agent}"', f"IdentityFile {other}")
    assert opens(configured(*lines))
    assert not opens(configured(*lines, "IdentitiesOnly yes"))


def test_no_open_file_is_left(agent: Path, configured: Configured, tmp_path: Path) -> None:
    """Neither a login nor a refused one leaves the agent's connection open."""
    line = f'IdentityAgent "{agent}"'
    opens(configured(line))
    before = open_files()
    opens(configured(line))
    (other,) = other_keys(tmp_path, 1)
    refusal(configured(line, f"IdentityFile {other}", "IdentitiesOnly yes"))
    assert open_files() <= before


def test_a_socket_that_is_no_agent(configured: Configured, tmp_path: Path) -> None:
    """What hangs up on that socket instead of answering counts as no agent, as it does for ssh."""
    path = tmp_path / "hangs up"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=hang_up, args=(listener,))
        thread.start()
        try:
            assert "the login was refused" in refusal(configured(f'IdentityAgent "{path}"'))
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def hang_up(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


# ---------------------------------------------------------------- passphrases and certificates


def test_a_passphrase(key: Path, configured: Configured, tmp_path: Path) -> None:
    """A key with a passphrase is refused with the way out, and works once an agent holds it."""
    locked = tmp_path / "locked"
    locked.write_bytes(key.read_bytes())
    locked.chmod(0o600)
    locked.with_suffix(".pub").write_text(f"{public(key)}\n")
    change = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "a passphrase", "-f", str(locked)]
    subprocess.run(change, check=True, timeout=30)
    lines = (f"IdentityFile {locked}", "IdentitiesOnly yes")
    words = refusal(configured(*lines, "IdentityAgent none"))
    assert "passphrase" in words
    assert "ssh-agent" in words
    assert "`ssh-add`" in words
    with running_agent(tmp_path, key) as agent:
        assert opens(configured(*lines, f'IdentityAgent "{agent}"'))


@pytest.fixture
def certified(sshd: Sshd, tmp_path: Path) -> Iterator[Path]:
    """A key that opens the door only together with its certificate, which lies elsewhere."""
    authority, signed = keygen(tmp_path / "authority"), keygen(tmp_path / "signed")
    subprocess.run(
        ["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", sshd.user, f"{signed}.pub"],
        check=True, timeout=30,
    )  # fmt: skip
    Path(f"{signed}-cert.pub").rename(tmp_path / "certificate")
    authorized = sshd.folder / "authorized_keys"
    before = authorized.read_text()
    authorized.write_text(f"{before}cert-authority {public(authority)}\n")
    yield signed
    authorized.write_text(before)


def test_a_certificate(certified: Path, configured: Configured, tmp_path: Path) -> None:
    """A certificate beside its key is used; one elsewhere is refused in words that name it."""
    lines = (f"IdentityFile {certified}", "IdentitiesOnly yes", "IdentityAgent none")
    target = configured(*lines, f"CertificateFile {tmp_path}/certificate")
    words = refusal(target)
    assert f"`CertificateFile {tmp_path}/certificate` was not offered" in words
    assert "-cert.pub" in words
    (tmp_path / "certificate").rename(f"{certified}-cert.pub")
    assert opens(configured(*lines, f"CertificateFile {certified}-cert.pub"))
    assert opens(configured(*lines))


def test_a_certificate_in_the_agent(
    certified: Path, configured: Configured, tmp_path: Path
) -> None:
    """A certificate that the agent holds is used, also where CertificateFile lets no other in."""
    (tmp_path / "certificate").rename(f"{certified}-cert.pub")
    with running_agent(tmp_path, certified) as agent:
        line = f'IdentityAgent "{agent}"'
        assert opens(configured(line, "IdentityFile none"))
        named = (f"IdentityFile {certified}.pub", f"CertificateFile {certified}-cert.pub")
        assert opens(configured(line, *named, "IdentitiesOnly yes"))


# ---------------------------------------------------------------- the key that `trust` puts there


def test_the_key_to_put_there(agent: Path, key: Path, configured: Configured) -> None:
    """`trust --copy-key` offers the agent's key, also where only IdentityAgent leads to it."""
    line = f'IdentityAgent "{agent}"'
    words = keycopy.public_key(configured(line, "IdentityFile none")).split()
    assert words[:2] == public(key).split()[:2]
    named = key.with_suffix(".pub")
    assert keycopy.public_key(configured(line, f"IdentityFile {named}")) == public(key)
    with pytest.raises(BoardFailure, match="has no ssh key"):
        keycopy.public_key(configured("IdentityAgent none", "IdentityFile none"))

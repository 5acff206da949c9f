"""A real sshd on loopback for one test session, with its own keys and no access but ours."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd") or next(
    (path for path in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if Path(path).exists()), None
)


@dataclass(frozen=True)
class Sshd:
    """Where it listens and how one logs in; `ssh_config` names key and port."""

    port: int
    user: str
    folder: Path
    host_key: Path
    ssh_config: Path
    login: Path
    """The home directory of whoever logs in: an empty one, without this account's .bashrc.

    Programs in its `bin` are found before all others.
    """

    def known_hosts_line(self, name: str) -> str:
        kind, key, *_ = self.host_key.with_suffix(".pub").read_text().split()
        return f"{name} {kind} {key}\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def keygen(path: Path) -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=30
    )
    return path


@contextlib.contextmanager
def running_sshd(folder: Path) -> Iterator[Sshd]:
    """Start sshd on a free loopback port; ended by pid at the end."""
    host_key, user_key = keygen(folder / "host_key"), keygen(folder / "user_key")
    authorized = folder / "authorized_keys"
    shutil.copy(user_key.with_suffix(".pub"), authorized)
    authorized.chmod(0o600)
    port, user = free_port(), getpass.getuser()
    login = folder / "login"
    login.mkdir()
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\n"
        f"AuthorizedKeysFile {authorized}\nPasswordAuthentication no\n"
        f"KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPidFile none\n"
        f"PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
        f"MaxStartups 50:30:100\nPrintMotd no\n"
        f"SetEnv HOME={login} PATH={login}/bin:{sys.base_prefix}/bin:/usr/bin:/bin\n"
    )
    ssh_config = folder / "ssh_config"
    ssh_config.write_text(
        f"Host *\n  IdentityFile {user_key}\n  IdentitiesOnly yes\n"
        f"Host loop\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n"
    )
    assert SSHD is not None
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's privilege separation wants it
    log = (folder / "sshd.log").open("wb")
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=log)
    try:
        _await_port(port, process)
        yield Sshd(port, user, folder, host_key, ssh_config, login)
    finally:
        process.terminate()
        process.wait(timeout=10)
        log.close()


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"sshd did not start (exit code {process.poll()})")

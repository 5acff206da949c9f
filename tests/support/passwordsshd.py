"""An ssh server on loopback that takes a password: paramiko's, since sshd would ask for an account.

Keys are taken from authorized_keys below `home`, as sshd does; commands run in this machine's sh.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from support.sshd import keygen

PASSWORD = "correct horse battery"  # noqa: S105 - the test's own


@dataclass
class PasswordServer:
    """Where it listens, and what was tried on it."""

    port: int
    home: Path
    host_key: Path
    ways: str = "password,publickey"
    passwords: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    @property
    def authorized_keys(self) -> Path:
        return self.home / ".ssh" / "authorized_keys"


class _Door(paramiko.ServerInterface):
    def __init__(self, server: PasswordServer) -> None:
        self._server = server

    def get_allowed_auths(self, username: str) -> str:
        return self._server.ways

    def check_auth_password(self, username: str, password: str) -> int:
        self._server.passwords.append(password)
        good = password == PASSWORD and "password" in self._server.ways
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        with contextlib.suppress(FileNotFoundError):
            if key.get_base64() in self._server.authorized_keys.read_text():
                return paramiko.AUTH_SUCCESSFUL
        return paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._server.commands.append(command.decode())
        threading.Thread(target=self._run, args=(channel, command.decode()), daemon=True).start()
        return True

    def _run(self, channel: paramiko.Channel, command: str) -> None:
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, check=False, stdin=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(self._server.home)}, timeout=30,
        )  # fmt: skip
        with contextlib.suppress(OSError):
            channel.sendall(done.stdout)
            channel.sendall_stderr(done.stderr)
            channel.send_exit_status(done.returncode)
            channel.close()


@contextlib.contextmanager
def running_password_server(folder: Path) -> Iterator[PasswordServer]:
    """Serve on a free loopback port until the end."""
    host_key, home = keygen(folder / "password_host_key"), folder / "login home"
    home.mkdir()
    listener = socket.create_server(("127.0.0.1", 0))
    server = PasswordServer(listener.getsockname()[1], home, host_key)
    transports: list[paramiko.Transport] = []

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(sock)
            transports.append(transport)
            transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(host_key)))
            with contextlib.suppress(paramiko.SSHException, EOFError):
                transport.start_server(event=threading.Event(), server=_Door(server))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        for transport in transports:
            transport.close()

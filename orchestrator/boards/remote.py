"""Commands and small files on a board, through fabric, with host keys from our own file.

fabric accepts any host key by default (AutoAddPolicy) and reads no known_hosts, so both are
replaced before a connection is opened. Jump hosts go through OpenSSH, which checks their keys.
"""

from __future__ import annotations

import io
import shlex
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import fabric
import paramiko
from invoke.exceptions import CommandTimedOut, Failure, ThreadException

from orchestrator.boards.sshcommand import CONNECT_TIMEOUT_S, SshTarget, explain, remote_path
from orchestrator.deploy import Bundle
from orchestrator.errors import BoardDiskFull, BoardUnreachable, HostKeyRejected, TransferFailed

COMMAND_TIMEOUT_S = 60
CHANNEL_TIMEOUT_S = 20


@dataclass(frozen=True)
class CommandResult:
    """How a command on the board ended and what it said."""

    exit_code: int
    stdout: str
    stderr: str


class Remote:
    """A logged-in fabric connection to one board."""

    def __init__(self, connection: fabric.Connection, target: SshTarget) -> None:
        self._connection = connection
        self._target = target

    def run(self, command: str) -> CommandResult:
        """Run a command; a non-zero exit is a result, not an error."""
        with _translated(self._target):
            result = self._connection.run(
                command, hide=True, warn=True, in_stream=False, timeout=COMMAND_TIMEOUT_S
            )
        return CommandResult(result.exited, result.stdout, result.stderr)

    def put(self, data: bytes, path: str) -> None:
        """Write a small file by SFTP; a leading `~/` is the login directory."""
        with _translated(self._target):
            self._connection.put(io.BytesIO(data), remote=path.removeprefix("~/"))

    def install(self, bundle: Bundle, home: str) -> str:
        """Put the agent's bundle below `home` and return its directory, quoted for the shell.

        It is unpacked beside its place and renamed, so a cut never leaves half a bundle.
        """
        bundles, name = f"{home}/bundles", bundle.directory_name
        target = remote_path(f"{bundles}/{name}")
        if self.run(f"test -f {target}/__main__.py").exit_code == 0:
            return target
        archive, half_made = f"{bundles}/{name}.tar.gz", f"{bundles}/.new-{name}"
        self._must(f"umask 077; mkdir -p {remote_path(bundles)} && chmod 700 {remote_path(home)}")
        self.put(bundle.tar(), archive)
        new, packed = remote_path(half_made), remote_path(archive)
        self._must(
            f"umask 077; rm -rf {new}; mkdir {new} && tar -xzf {packed} -C {new} && "
            f"rm -rf {target} && mv -T {new} {target}; code=$?; rm -rf {packed} {new}; exit $code"
        )
        return target

    def _must(self, command: str) -> None:
        result = self.run(f"sh -c {shlex.quote(command)}")
        if result.exit_code == 0:
            return
        said = result.stderr.strip()
        if "No space left" in said:
            raise BoardDiskFull(
                f"{self._target.name}: no space left for the agent's own files ({said}); "
                f"free some space on the board"
            )
        raise TransferFailed(f"{self._target.name}: could not install the agent: {said}")


@contextmanager
def open_remote(target: SshTarget) -> Iterator[Remote]:
    """Log in with fabric and close at the end; raises BoardUnreachable, HostKeyRejected."""
    config = fabric.Config(
        runtime_ssh_path=None if target.ssh_config is None else str(target.ssh_config)
    )
    connection = fabric.Connection(
        target.address,
        user=target.user,
        port=target.port,
        config=config,
        gateway=False,  # fabric's own would accept any key of the jump host
        connect_timeout=CONNECT_TIMEOUT_S,
        connect_kwargs={
            "banner_timeout": CHANNEL_TIMEOUT_S,
            "auth_timeout": CHANNEL_TIMEOUT_S,
            "channel_timeout": CHANNEL_TIMEOUT_S,
        },
    )
    connection.gateway = _gateway(target, connection.ssh_config)
    client: paramiko.SSHClient = connection.client
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    _load_keys(client, connection, target)
    try:
        with _translated(target):
            connection.open()
        yield Remote(connection, target)
    finally:
        connection.close()


def _gateway(target: SshTarget, configured: Mapping[str, str]) -> str | None:
    """The command that reaches a board behind others, run by OpenSSH with its own checks."""
    jump = target.jump or configured.get("proxyjump")
    if jump is None or jump.lower() == "none":
        command = configured.get("proxycommand", "none")
        return None if command.lower() == "none" else command
    *through, last = jump.split(",")
    words = ["ssh", *target.config_options(), "-o", "BatchMode=yes", "-W", "%h:%p"]
    if through:
        words += ["-J", ",".join(through)]
    host, colon, port = last.rpartition(":")
    words += ["-p", port, "--", host] if colon and port.isdigit() else ["--", last]
    return shlex.join(words)


def _load_keys(
    client: paramiko.SSHClient, connection: fabric.Connection, target: SshTarget
) -> None:
    """Copy the keys recorded under the board's name to the name that paramiko looks up."""
    if not target.known_hosts.is_file():
        return
    recorded = paramiko.HostKeys(str(target.known_hosts)).lookup(target.name)
    port = connection.port
    looked_up = (
        connection.host if port == paramiko.config.SSH_PORT else f"[{connection.host}]:{port}"
    )
    for kind in list(recorded or ()):
        client.get_host_keys().add(looked_up, kind, recorded[kind])


@contextmanager
def _translated(target: SshTarget) -> Iterator[None]:
    """Turn fabric's, paramiko's and the socket's errors into ours, once, here."""
    try:
        yield
    except paramiko.BadHostKeyException as exc:
        changed = "identification has changed; host key verification failed"
        raise explain(changed, target) or HostKeyRejected(str(exc)) from exc
    except paramiko.AuthenticationException as exc:
        raise explain("permission denied", target) or BoardUnreachable(str(exc)) from exc
    except paramiko.SSHException as exc:
        if "known_hosts" in str(exc):
            raise explain("host key verification failed", target) or HostKeyRejected("") from exc
        raise BoardUnreachable(f"{target.name}: ssh failed: {exc}") from exc
    except (CommandTimedOut, TimeoutError) as exc:
        raise BoardUnreachable(
            f"{target.name}: a command did not end within {COMMAND_TIMEOUT_S} s; "
            f"check the board's network"
        ) from exc
    except (socket.gaierror, OSError, EOFError, ThreadException, Failure) as exc:
        raise explain(str(exc), target) or BoardUnreachable(f"{target.name}: {exc}") from exc

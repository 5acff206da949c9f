"""Commands and small files on a board, through fabric, with host keys from our own file.

fabric accepts any host key by default (AutoAddPolicy) and reads no known_hosts, so both are
replaced before a connection is opened. Jump hosts go through OpenSSH, which checks their keys.
"""

from __future__ import annotations

import secrets
import shlex
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import fabric
import paramiko

from orchestrator.boards.link import LastWords, end_process
from orchestrator.boards.shell import COMMAND_TIMEOUT_S, CommandResult, run_script
from orchestrator.boards.sshagent import Agent, Settings, only_named
from orchestrator.boards.sshcommand import (
    CONNECT_TIMEOUT_S,
    SshTarget,
    effective,
    explain,
    remote_path,
)
from orchestrator.deploy import (
    HALF_MADE,
    HOME_MARKER,
    HOME_MARKER_TEXT,
    LEFT_OVER_S,
    Bundle,
    may_be_marked,
)
from orchestrator.errors import BoardDiskFull, BoardUnreachable, HostKeyRejected, TransferFailed

CHANNEL_TIMEOUT_S = 20
OUTPUT_LIMIT_BYTES = 1 << 20
"""A command that says more is given up: what is expected fits many times."""
_READ_BYTES = 1 << 16
_SETTINGS = ("hostname", "user", "port", "proxyjump", "proxycommand")
"""What is taken from the user's ssh configuration, beside the keys (see `sshagent`)."""
_NO_KEY_FITS = ("No authentication methods available", "private key file")
"""What paramiko says where it finds no key, or where the last that it tried is unreadable."""
_POLL_S = 0.005


class Remote:
    """A logged-in fabric connection to one board; see `Shell` for `run` and `feed`."""

    def __init__(self, connection: fabric.Connection, target: SshTarget) -> None:
        self._connection = connection
        self._target = target

    def run(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> CommandResult:
        """Run a command; a non-zero exit is a result, not an error."""
        return self.feed(command, (), timeout_s)

    def feed(
        self, command: str, chunks: Iterable[bytes], timeout_s: float = COMMAND_TIMEOUT_S
    ) -> CommandResult:
        """Run a command with `chunks` as its input.

        On a channel of its own rather than through fabric's `run`, which does not come back from
        a dead link, whatever its time-out.
        """
        with _translated(self._target):
            channel = self._connection.transport.open_session(timeout=CHANNEL_TIMEOUT_S)
            with channel:
                channel.settimeout(timeout_s)
                channel.exec_command(command)
                try:
                    for chunk in chunks:
                        channel.sendall(chunk)
                    channel.shutdown_write()
                except OSError:  # a command that has ended takes no more input
                    if not channel.closed:
                        raise
                return _answer(channel, time.monotonic() + timeout_s)

    def put(self, data: bytes, path: str) -> None:
        """Write a small file; without SFTP, which a login script that prints would break."""
        self._must(f"umask 077; cat > {remote_path(path)}", (data,))

    def install(self, bundle: Bundle, home: str) -> str:
        """Put the agent's bundle below `home` and return its directory, quoted for the shell.

        It is unpacked beside its place, synced (a power cut would leave empty files) and renamed,
        so a cut never leaves half a bundle, and two hosts that install at once do not meet.
        """
        bundles, name = f"{home}/bundles", bundle.directory_name
        target = remote_path(f"{bundles}/{name}")
        if self.run(f"test -f {target}/__main__.py").exit_code == 0:
            return target
        half_made = f"{bundles}/{HALF_MADE}{name}-{secrets.token_hex(4)}"
        archive = f"{half_made}.tar.gz"
        self.claim(home)
        self._must(f"umask 077; mkdir -p {remote_path(bundles)}")
        self.put(bundle.tar(), archive)
        new, packed = remote_path(half_made), remote_path(archive)
        self._must(
            f"umask 077; find {remote_path(bundles)} -maxdepth 1 -name '{HALF_MADE}*' "
            f"-mmin +{LEFT_OVER_S / 60:.0f} -exec rm -rf {{}} +; "
            f"mkdir {new} && tar -xzf {packed} -C {new} && sync -f {new} && "
            f"{{ test -f {target}/__main__.py || rm -rf {target}; }} && "
            f"{{ mv -T {new} {target} || test -f {target}/__main__.py; }}; "
            f"code=$?; rm -rf {packed} {new}; exit $code"
        )
        return target

    def claim(self, home: str) -> None:
        """Make the agent's home, private, and mark it unless files of others are in it."""
        quoted = remote_path(home)
        self._must(f"umask 077; mkdir -p {quoted} && chmod 700 {quoted}")
        found = run_script(self, f"ls -A {quoted}").stdout.splitlines()
        if HOME_MARKER not in found and may_be_marked(found):
            self.put(HOME_MARKER_TEXT.encode(), f"{home}/{HOME_MARKER}")

    def _must(self, command: str, chunks: Iterable[bytes] = ()) -> None:
        result = self.feed(f"sh -c {shlex.quote(command)}", chunks)
        if result.exit_code == 0:
            return
        said = result.stderr.strip()
        if "No space left" in said:
            raise BoardDiskFull(
                f"{self._target.name}: no space left for the agent's own files ({said}); "
                f"free some space on the board"
            )
        raise TransferFailed(f"{self._target.name}: could not install the agent: {said}")


def _answer(channel: paramiko.Channel, deadline: float) -> CommandResult:
    """Read what a command says until its channel is closed; raises TimeoutError, EOFError."""
    said, complained = bytearray(), bytearray()
    closed = False
    while not closed:
        closed = channel.closed  # asked first: all that was said before is in the buffers then
        while channel.recv_ready():
            said += channel.recv(_READ_BYTES)
        while channel.recv_stderr_ready():
            complained += channel.recv_stderr(_READ_BYTES)
        if len(said) + len(complained) > OUTPUT_LIMIT_BYTES:
            raise paramiko.SSHException(f"a command said more than {OUTPUT_LIMIT_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
        if not closed:
            time.sleep(_POLL_S)
    if channel.exit_status < 0 and not channel.get_transport().is_active():
        raise EOFError("the connection ended before the command did")
    return CommandResult(
        channel.exit_status, said.decode(errors="replace"), complained.decode(errors="replace")
    )


@contextmanager
def open_remote(target: SshTarget, password: str | None = None) -> Iterator[Remote]:
    """Log in with fabric and close at the end; raises BoardUnreachable, HostKeyRejected.

    With a password nothing else is tried; it is offered only after the host key was verified.
    """
    settings = effective(target)
    config = _config(target, settings, with_keys=password is None)
    connection = fabric.Connection(
        target.address,
        user=target.user,
        port=target.port,
        config=config,
        gateway=False,  # fabric's own would accept any key of the jump host; see _way
        connect_timeout=CONNECT_TIMEOUT_S,
        connect_kwargs={
            "banner_timeout": CHANNEL_TIMEOUT_S,
            "auth_timeout": CHANNEL_TIMEOUT_S,
            "channel_timeout": CHANNEL_TIMEOUT_S,
            **_login(password, settings or {}),
        },
    )
    client: paramiko.SSHClient = connection.client
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    _load_keys(client, connection, target)
    with ExitStack() as stack:
        way = _way(target, connection)
        if way is not None:
            connection.connect_kwargs["sock"] = stack.enter_context(_led_through(way, target))
        stack.callback(client.close)  # fabric's own leaves one open that was refused
        stack.callback(connection.close)
        with _translated(target, _not_offered(settings or {})):
            if password is None and settings is not None:
                agent = Agent(settings)
                stack.callback(agent.close)
                client._agent = agent  # noqa: SLF001 - paramiko has no other way to name an agent
            connection.open()
        yield Remote(connection, target)


def _config(target: SshTarget, settings: Settings | None, *, with_keys: bool) -> fabric.Config:
    """The user's ssh configuration as OpenSSH itself reads it; paramiko ignores Include."""
    if settings is None:
        path = None if target.ssh_config is None else str(target.ssh_config)
        return fabric.Config(runtime_ssh_path=path)
    lines = [f"{key} {settings[key][0]}" for key in _SETTINGS if key in settings]
    keys = [key for key in settings.get("identityfile", ()) if not key.endswith(".pub")]
    if with_keys:
        lines += [f"identityfile {key}" for key in keys if Path(key).expanduser().is_file()]
    text = "\n".join(["Host *", *lines])
    return fabric.Config(ssh_config=paramiko.SSHConfig.from_text(text))


def _login(password: str | None, settings: Settings) -> dict[str, Any]:
    """What paramiko is told about logging in; without a password, all of its own ways with keys."""
    if password is None:
        return {"look_for_keys": False} if only_named(settings) else {}
    return {"password": password, "allow_agent": False, "look_for_keys": False}


def _not_offered(settings: Settings) -> str:
    """What to know when a login is refused: which certificates paramiko does not find; or ''."""
    beside = {f"{key}-cert.pub" for key in settings.get("identityfile", ())}
    apart = [path for path in settings.get("certificatefile", ()) if path not in beside]
    if not apart:
        return ""
    return (
        f"; `CertificateFile {apart[0]}` was not offered, since provisioning takes a certificate "
        f"only from beside its key, under the key's name with -cert.pub: copy it there, or hold "
        f"both in ssh-agent (`ssh-add`)"
    )


def _way(target: SshTarget, connection: fabric.Connection) -> list[str] | None:
    """The command that reaches a board behind others, run by OpenSSH with its own checks."""
    configured: Mapping[str, str] = connection.ssh_config
    jump = target.jump or configured.get("proxyjump")
    if jump is None or jump.lower() == "none":
        command = configured.get("proxycommand", "none")
        return None if command.lower() == "none" else ["sh", "-c", f"exec {command}"]
    *through, last = jump.split(",")
    far = f"[{connection.host}]" if ":" in connection.host else connection.host
    words = ["ssh", *target.config_options(), "-o", "BatchMode=yes"]
    words += ["-W", f"{far}:{connection.port}"]
    if through:
        words += ["-J", ",".join(through)]
    host, colon, port = last.rpartition(":")
    return words + (["-p", port, "--", host] if colon and port.isdigit() else ["--", last])


@contextmanager
def _led_through(argv: list[str], target: SshTarget) -> Iterator[socket.socket]:
    """A socket that a process joins to the board; paramiko's own leaves its process behind."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            argv,
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        theirs.close()
        words = LastWords(process)
        try:
            yield ours
        except BoardUnreachable as exc:
            end_process(process)
            raise explain(words.text(), target) or exc from exc
        finally:
            end_process(process)


def _load_keys(
    client: paramiko.SSHClient, connection: fabric.Connection, target: SshTarget
) -> None:
    """Copy the keys recorded under the board's name to the name that paramiko looks up."""
    if not target.known_hosts.is_file():
        return
    try:
        recorded = paramiko.HostKeys(str(target.known_hosts)).lookup(target.name)
    except (OSError, ValueError, paramiko.hostkeys.InvalidHostKey) as exc:
        raise HostKeyRejected(
            f"{target.name}: the file of host keys {target.known_hosts} cannot be read: {exc}; "
            f"delete it and record the keys again with `orchestrator boards trust`"
        ) from exc
    port = connection.port
    looked_up = (
        connection.host if port == paramiko.config.SSH_PORT else f"[{connection.host}]:{port}"
    )
    for kind in list(recorded or ()):
        client.get_host_keys().add(looked_up, kind, recorded[kind])


@contextmanager
def _translated(target: SshTarget, at_login: str = "") -> Iterator[None]:
    """Turn fabric's, paramiko's and the socket's errors into ours, once, here."""
    refused = f"permission denied{at_login}"
    try:
        yield
    except paramiko.BadHostKeyException as exc:
        changed = "identification has changed; host key verification failed"
        raise explain(changed, target) or HostKeyRejected(str(exc)) from exc
    except paramiko.AuthenticationException as exc:
        raise explain(refused, target) or BoardUnreachable(str(exc)) from exc
    except paramiko.SSHException as exc:
        if any(sign in str(exc) for sign in _NO_KEY_FITS):
            raise explain(refused, target) or BoardUnreachable(str(exc)) from exc
        if "known_hosts" in str(exc):
            raise explain("host key verification failed", target) or HostKeyRejected("") from exc
        raise BoardUnreachable(f"{target.name}: ssh failed: {exc}") from exc
    except TimeoutError as exc:
        raise BoardUnreachable(
            f"{target.name}: a command did not end in time; check the board's power and network"
        ) from exc
    except (socket.gaierror, OSError, EOFError) as exc:
        raise explain(str(exc), target) or BoardUnreachable(f"{target.name}: {exc}") from exc

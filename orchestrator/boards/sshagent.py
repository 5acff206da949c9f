"""The keys that an ssh-agent holds, found and chosen as OpenSSH does; paramiko knows one socket."""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import paramiko

Settings = Mapping[str, Sequence[str]]
"""What `sshcommand.effective` gives."""


def agent_socket(settings: Settings) -> str | None:
    """Where the agent listens that ssh would ask (`IdentityAgent`); None where it asks none."""
    named = next(iter(settings.get("identityagent", ())), "SSH_AUTH_SOCK")
    if named == "none":
        return None
    if named == "SSH_AUTH_SOCK":
        return os.environ.get(named)
    if named.startswith("$"):
        return os.environ.get(named[1:])
    return str(Path(named).expanduser())


def public_file(identity: str) -> Path:
    """The public half of an IdentityFile, which may itself be named: its key is in the agent."""
    return Path(identity if identity.endswith(".pub") else f"{identity}.pub").expanduser()


def only_named(settings: Settings) -> bool:
    """Whether no other keys than the configured ones may be offered (`IdentitiesOnly`)."""
    return next(iter(settings.get("identitiesonly", ())), "no") == "yes"


class Agent(paramiko.Agent):  # type: ignore[misc]  # paramiko has no types
    """The agent's keys in ssh's order: those that an IdentityFile names, then all others.

    With `IdentitiesOnly` the others are left out; a server counts every key that it refuses.
    Where no agent answers there are no keys, as for ssh.
    """

    def __init__(self, settings: Settings) -> None:
        paramiko.agent.AgentSSH.__init__(self)  # its own would ask SSH_AUTH_SOCK
        path = agent_socket(settings)
        files = [*settings.get("identityfile", ()), *settings.get("certificatefile", ())]
        halves = [public_file(name) for file in files for name in (file, f"{file}-cert.pub")]
        self._named = {_blob(half) for half in halves} - {None}
        self._only = only_named(settings)
        if not path:
            return
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
            self._connect(connection)
        except (OSError, paramiko.SSHException):
            self.close()
            connection.close()

    def get_keys(self) -> tuple[paramiko.AgentKey, ...]:
        """The keys in the order in which they are to be offered."""
        keys = super().get_keys()
        named = [key for key in keys if key.blob in self._named]
        others = [] if self._only else [key for key in keys if key.blob not in self._named]
        return (*named, *others)


def _blob(path: Path) -> bytes | None:
    """The key in a file like id_ed25519.pub; None where there is none."""
    try:
        return base64.b64decode(path.read_text(errors="replace").split()[1])
    except (OSError, IndexError, ValueError):
        return None

"""Putting the user's public key on a board that takes passwords only; like ssh-copy-id.

The password goes to paramiko and nowhere else, and only after the board's host key was compared
with the recorded one.
"""

from __future__ import annotations

import os
import subprocess
from typing import Final

import paramiko

from orchestrator.boards.remote import open_remote
from orchestrator.boards.shell import Shell, run_script
from orchestrator.boards.sshagent import agent_socket, public_file
from orchestrator.boards.sshcommand import SshTarget, effective, explain
from orchestrator.errors import BoardFailure, BoardUnreachable, TransferFailed

_TIMEOUT_S: Final = 60

_APPEND: Final = """
umask 077
cd || exit 1
mkdir -p .ssh && chmod 700 .ssh || exit 1
keys=.ssh/authorized_keys
touch "$keys" && chmod 600 "$keys" || exit 1
grep -qF "$2" "$keys" && exit 0
[ -z "$(tail -c 1 "$keys")" ] || echo >> "$keys"
printf '%s\\n' "$1" >> "$keys"
"""


def login_problem(target: SshTarget) -> str | None:
    """What ssh says when it logs in with keys alone; None when that works.

    Raises HostKeyRejected, or BoardUnreachable where it is not the login that fails.
    """
    try:
        done = subprocess.run(
            target.argv("true"), capture_output=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise BoardUnreachable(f"no login within {_TIMEOUT_S} s", target.name) from exc
    if done.returncode == 0:
        return None
    said = done.stderr.strip()
    if "permission denied" in said.lower() or "authentication failures" in said.lower():
        return said.splitlines()[-1]
    raise explain(said, target) or BoardUnreachable(
        f"the login failed: {said or f'exit code {done.returncode}'}", target.name
    )


def public_key(target: SshTarget) -> str:
    """The line of the key that ssh would use: a file's, else the agent's first.

    Raises BoardFailure with the command that makes one.
    """
    settings = effective(target) or {}
    for value in settings.get("identityfile", ()):
        path = public_file(value)
        if path.is_file():
            return path.read_text().strip()
    held = _held(agent_socket(settings)).splitlines()
    if held and held[0].startswith(("ssh-", "ecdsa-", "sk-")):
        return held[0].strip()
    raise BoardFailure(
        "this account has no ssh key to put there; make one with `ssh-keygen -t ed25519`",
        target.name,
    )


def _held(agent: str | None) -> str:
    """The public keys that an agent holds, a line each; '' where none answers."""
    if agent is None:
        return ""
    try:
        return subprocess.run(
            ["ssh-add", "-L"], capture_output=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, env={**os.environ, "SSH_AUTH_SOCK": agent},
            timeout=_TIMEOUT_S, check=False,
        ).stdout  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""


def copy_key(target: SshTarget, key: str, password: str) -> None:
    """Append `key` to the account's authorized_keys and see that it opens the door.

    Raises BoardUnreachable when the password is refused, TransferFailed when the key cannot be
    written or does not work.
    """
    try:
        with open_remote(target, password) as remote:
            append(remote, target.name, key)
    except BoardUnreachable as exc:
        raise _refused(exc, target) from exc
    problem = login_problem(target)
    if problem is not None:
        raise TransferFailed(
            f"the key is in ~/.ssh/authorized_keys on the board, but does not open the login "
            f"({problem}); if the key has a passphrase, type `ssh-add` here; on the board, "
            f"`chmod go-w ~ ~/.ssh` may help (sshd trusts no file that others can change)",
            target.name,
        )


def append(shell: Shell, board: str, key: str) -> None:
    """Add a line to authorized_keys unless the key is there; raises TransferFailed."""
    words = key.split()
    result = run_script(shell, _APPEND, key, " ".join(words[:2]))
    if result.exit_code != 0:
        raise TransferFailed(
            f"~/.ssh/authorized_keys could not be written: {result.stderr.strip()}", board
        )


def _refused(error: BoardUnreachable, target: SshTarget) -> BoardUnreachable:
    """A refused password in words; any other error as it is."""
    cause = error.__cause__
    if isinstance(cause, paramiko.BadAuthenticationType):
        return BoardUnreachable(
            f"its sshd takes no password (but {', '.join(cause.allowed_types)}); put the key there "
            f"another way, for example in Raspberry Pi Imager under Services",
            target.name,
        )
    if isinstance(cause, paramiko.AuthenticationException):
        user = f" of {target.user}" if target.user else ""
        return BoardUnreachable(f"the password{user} was refused", target.name)
    return error

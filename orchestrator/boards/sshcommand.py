"""How OpenSSH is run: argument lists, quoting for the far shell, and its words explained."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from agent.wire import BenchError
from orchestrator.errors import BoardUnreachable, HostKeyRejected

CONNECT_TIMEOUT_S = 10
ALIVE_INTERVAL_S = 5
_CONFIG_TIMEOUT_S = 30
ALIVE_COUNT = 3
"""A silent peer is given up after ALIVE_INTERVAL_S * ALIVE_COUNT seconds."""


@dataclass(frozen=True)
class SshTarget:
    """Where a board is and how its host key is known: under the board's name, in our file."""

    name: str
    address: str
    known_hosts: Path
    user: str | None = None
    port: int | None = None
    jump: str | None = None
    ssh_config: Path | None = None
    """A file for `ssh -F`; None leaves ssh its own."""
    remedy: str | None = None
    """The command that brings the board back where nothing answers."""

    def options(self) -> list[str]:
        """Arguments before the destination."""
        settings = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": f'"{self.known_hosts}"',
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": self.name,
            "CheckHostIP": "no",
            "UpdateHostKeys": "no",
            "ConnectTimeout": str(CONNECT_TIMEOUT_S),
            "ServerAliveInterval": str(ALIVE_INTERVAL_S),
            "ServerAliveCountMax": str(ALIVE_COUNT),
            "Compression": "no",
            "ControlMaster": "no",
            "ControlPath": "none",
            "ClearAllForwardings": "yes",
            "PermitLocalCommand": "no",
            "RemoteCommand": "none",
            "LogLevel": "ERROR",
        }
        argv = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        argv += ["-T", "-a", "-x"]
        for flag, value in (("-p", self.port), ("-l", self.user), ("-J", self.jump)):
            if value is not None:
                argv += [flag, str(value)]
        return argv

    def config_options(self) -> list[str]:
        """Which configuration file ssh is to read."""
        return [] if self.ssh_config is None else ["-F", str(self.ssh_config)]

    def argv(self, remote_command: str) -> list[str]:
        """The whole command line; `--` keeps an address from being read as an option."""
        return ["ssh", *self.config_options(), *self.options(), "--", self.address, remote_command]


def effective(target: SshTarget) -> dict[str, tuple[str, ...]] | None:
    """What ssh would do for this board, by keyword in lower case (`ssh -G`); no contact is made.

    So that others read the user's configuration as ssh does, with its Include, Match and tokens;
    None where there is no OpenSSH. Raises BoardUnreachable with ssh's own words.
    """
    argv = ["ssh", "-G", *target.config_options(), *target.options(), "--", target.address]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
            timeout=_CONFIG_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        raise BoardUnreachable(
            f"ssh cannot use its configuration: {done.stderr.strip() or 'it does not say why'}",
            target.name,
        )
    found: dict[str, tuple[str, ...]] = {}
    for key, _, value in (line.partition(" ") for line in done.stdout.splitlines()):
        found[key.lower()] = (*found.get(key.lower(), ()), value)
    return found


def remote_path(path: str) -> str:
    """Quote a path for the far shell, which is to expand a leading `~/` and nothing else."""
    if path.startswith("~/"):
        return '"$HOME"/' + shlex.quote(path[2:])
    return shlex.quote(path)


_UNREACHABLE = (
    ("could not resolve", "the name cannot be resolved; check `address:` in the inventory"),
    ("not known", "the name cannot be resolved; check `address:` in the inventory"),
    ("unable to negotiate", "ssh and the board have no algorithm in common; update the board"),
    ("connection refused", "nothing listens there; is sshd running, is `port:` right?"),
    ("no route to host", "there is no route; is the board on this network?"),
    ("network is unreachable", "this host has no route to that network"),
    ("timed out", "no answer; is the board switched on and on the network?"),
    (
        "permission denied",
        "the login was refused; check `user:`, and put your key there with "
        "`orchestrator boards trust {name} --copy-key`; a key with a passphrase works once "
        "ssh-agent holds it (`ssh-add`)",
    ),
    ("too many authentication failures", "too many keys were offered; name one in ~/.ssh/config"),
    ("connection closed", "the board closed the connection; look at its sshd log"),
    ("connection reset", "the connection was reset; look at the board's sshd log"),
    ("kex_exchange_identification", "the far side is not an ssh server, or it refuses new logins"),
)


def explain(stderr: str, target: SshTarget) -> BenchError | None:
    """The error that OpenSSH's own words stand for; None when the words are not ssh's."""
    if "host key verification failed" in stderr.lower():
        return _rejected(stderr.lower(), target)
    for sign, advice in _UNREACHABLE:
        said = [line.strip() for line in stderr.splitlines() if sign in line.lower()]
        if said:
            remedy = f"no answer; `{target.remedy}` starts it"
            words = advice.format(name=target.name) if target.remedy is None else remedy
            return BoardUnreachable(f"{target.name} ({target.address}): {words} [ssh: {said[0]}]")
    return None


def _rejected(words: str, target: SshTarget) -> HostKeyRejected:
    """Whose key was refused: behind a jump host that fails, ssh's own exchange is cut as well."""
    changed = "identification has changed" in words
    reason = (
        "host key is not the one recorded (another machine, a new card, or an attack)"
        if changed
        else "host key is not recorded yet"
    )
    if "kex_exchange_identification" in words or "closed by unknown" in words:
        jump = target.jump or "of your ssh configuration"
        return HostKeyRejected(
            f"{target.name}: the jump host {jump}: its {reason}; log in there once with ssh itself "
            f"and compare the key it shows"
        )
    return HostKeyRejected(
        f"{target.name}: its {reason}; compare and record it with "
        f"`orchestrator boards trust {target.name}`"
    )

"""Learning a board's host key: fetched once, shown to a person, recorded under the board's name."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.boards.sshcommand import SshTarget, explain
from orchestrator.clones import Identity
from orchestrator.errors import BoardUnreachable

_TIMEOUT_S = 30


@dataclass(frozen=True)
class HostKey:
    """A key as known_hosts writes it, and its fingerprint as people compare it."""

    line: str
    fingerprint: str


def offered_key(target: SshTarget) -> HostKey:
    """The key that the board offers now; raises BoardUnreachable.

    OpenSSH fetches it, so that jump hosts and ssh's own configuration apply; the key goes to a
    file of its own and no login is made.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "known_hosts"
        probe = replace(target, known_hosts=found)
        words = [
            "StrictHostKeyChecking=accept-new",
            "HashKnownHosts=no",  # Debian's own configuration says yes: no name could be read
            "PreferredAuthentications=none",
            "PubkeyAuthentication=no",
        ]
        argv = probe.argv("true")
        argv[1:1] = [part for word in words for part in ("-o", word)]
        said = _run(argv, target)
        lines = _lines(found)
        if not lines:
            raise explain(said, target) or BoardUnreachable(
                f"no host key was offered ({said or 'ssh said nothing'})", target.name
            )
        return HostKey(lines[0], _fingerprint(found))


def _run(argv: list[str], target: SshTarget) -> str:
    """What ssh said; that it could not log in is no error here."""
    try:
        done = subprocess.run(
            argv, capture_output=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as exc:
        raise BoardUnreachable(f"no answer within {_TIMEOUT_S} s", target.name) from exc
    except OSError as exc:
        raise BoardUnreachable(f"cannot run ssh here: {exc.strerror}", target.name) from exc
    return done.stderr.decode(errors="replace").strip()


def _fingerprint(path: Path) -> str:
    listed = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(path)],
        capture_output=True, text=True, timeout=_TIMEOUT_S, check=True,
    ).stdout.split()  # fmt: skip
    return f"{listed[-1].strip('()')} {listed[1]}"


def recorded_lines(target: SshTarget) -> list[str]:
    """The lines recorded for this board."""
    return [line for line in _lines(target.known_hosts) if line.split(" ", 1)[0] == target.name]


def record(target: SshTarget, key: HostKey) -> None:
    """Make `key` the only one recorded for the board; the file is replaced as a whole."""
    others = _lines_of_others(target.known_hosts, [target.name])
    target.known_hosts.parent.mkdir(parents=True, exist_ok=True)
    _replace(target.known_hosts, [*others, key.line])


def forget(known_hosts: Path, names: Collection[str]) -> None:
    """Drop what is recorded for these boards, and the file with the last of it."""
    others = _lines_of_others(known_hosts, names)
    if others:
        _replace(known_hosts, others)
    else:
        known_hosts.unlink(missing_ok=True)


def _lines_of_others(known_hosts: Path, names: Collection[str]) -> list[str]:
    return [line for line in _lines(known_hosts) if line.split(" ", 1)[0] not in names]


def _replace(known_hosts: Path, lines: list[str]) -> None:
    new = known_hosts.with_suffix(".new")
    new.write_text("".join(f"{line}\n" for line in lines), errors="surrogateescape")
    new.chmod(0o600)
    new.replace(known_hosts)


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="surrogateescape").splitlines() if path.is_file() else []


def identities(known_hosts: Path) -> list[Identity]:
    """The boards of a known_hosts file by their keys, to find those that share one."""
    keys: dict[str, set[str]] = {}
    for line in _lines(known_hosts):
        name, _, key = line.partition(" ")
        keys.setdefault(name, set()).add(key.strip())
    return [Identity(name, host_keys=frozenset(found)) for name, found in keys.items()]

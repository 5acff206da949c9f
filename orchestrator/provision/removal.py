"""Taking all of it away again: the agent stopped, its home removed, nothing of others touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from orchestrator.boards.shell import Shell, run_script
from orchestrator.deploy import HOME_MARKER, OWN_NAMES
from orchestrator.errors import BoardBusy, BoardFailure, TransferFailed
from orchestrator.provision import daemon, service

Say = Callable[[str], None]

_BOARD_LOCKS: Final = ("/run/lock/orchestrator-board.lock", "/tmp/orchestrator-board.lock")  # noqa: S108 - agent.lease chooses between them

_LOOK: Final = f"""
say() {{ printf '%s=%s\\n' "$1" "$2"; }}
cd "$1" 2>/dev/null || exit 0
say home "$(pwd -P)"
[ -f {HOME_MARKER} ] && say ours yes
say kib "$(du -sk . | cut -f 1)"
for trial in trials/*/; do [ -f "$trial/spec.json" ] && say trial "${{trial#trials/}}"; done
"""

_REMOVE: Final = f"""
home=$1
shift
cd "$home" || exit 1
rm -rf -- {" ".join(OWN_NAMES)}
cd /
rmdir -- "$home" 2>/dev/null || ls -A "$home" | sed 's/^/left=/'
short="/tmp/orchestrator-$(id -u)"
rm -rf -- "$short/$(printf %s "$home" | sha256sum | cut -c 1-12)"
rmdir -- "$short" 2>/dev/null
for lock in "$@"; do
  [ -f "$lock" ] && [ -O "$lock" ] && flock -n "$lock" rm -f -- "$lock"
done
exit 0
"""
"""`$2...` are lock files of the whole board: this account's own goes, unless it is held. An agent
that opened it a moment before sees that it is gone and makes another (agent.lease)."""


@dataclass(frozen=True)
class Home:
    """An agent's home on a board; `ours` says that its marker is there."""

    path: str
    ours: bool
    size_bytes: int
    trials: tuple[str, ...]
    """Ids of trials whose journals no host has acknowledged."""


def look(shell: Shell, home: str) -> Home | None:
    """What there is to remove; None where there is no such directory."""
    pairs = [
        line.partition("=")[::2] for line in run_script(shell, _LOOK, home).stdout.splitlines()
    ]
    values = dict(pairs)
    if "home" not in values:
        return None
    kib = values.get("kib", "")
    return Home(
        path=values["home"],
        ours=values.get("ours") == "yes",
        size_bytes=int(kib) * 1024 if kib.isdecimal() else 0,
        trials=tuple(value.rstrip("/") for name, value in pairs if name == "trial"),
    )


def refuse_loss(found: Home, board: str) -> None:
    """Raises BoardFailure for a home that is not ours, or that holds what was measured."""
    if not found.ours:
        raise BoardFailure(
            f"{found.path} has no {HOME_MARKER}, so it was not made for the agent alone; look at "
            f"it and remove what you do not need by hand",
            board,
        )
    if found.trials:
        raise BoardFailure(
            f"{len(found.trials)} measured trials were not stored by a host yet "
            f"({', '.join(found.trials[:3])}{', …' if len(found.trials) > 3 else ''}); "  # noqa: PLR2004 - as many as are shown
            f"complete their run with `orchestrator resume RUN`, or lose them with --force",
            board,
        )


def remove(
    shell: Shell, board: str, found: Home, say: Say, *, lock: str | None = None,
    force: bool = False,
) -> None:  # fmt: skip
    """Stop the agent and remove its home, its unit and its lock file.

    Raises BoardBusy while a run uses the board (unless `force`), TransferFailed when something
    cannot be removed.
    """
    if daemon.stop(shell, found.path, force=force) == "busy":
        raise BoardBusy(
            "a run is using the board; wait until it has ended, or end it with --force", board
        )
    if service.remove(shell, board, found.path):
        say("the systemd user unit is removed")
    locks = _BOARD_LOCKS if lock is None else (lock,)
    result = run_script(shell, _REMOVE, found.path, *locks)
    left = [line[5:] for line in result.stdout.splitlines() if line.startswith("left=")]
    if result.exit_code != 0 or result.stderr.strip():
        raise TransferFailed(
            f"{found.path} could not be removed: {result.stderr.strip() or result.exit_code}", board
        )
    if left:
        say(f"{found.path} stays, because there is something else in it: {', '.join(left)}")
    else:
        say(f"{found.path} is removed")

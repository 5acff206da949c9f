"""The agent's running daemon as seen from outside: found by its lock, never by a pattern."""

from __future__ import annotations

from typing import Final, Literal

from orchestrator.boards.shell import Shell, run_script

State = Literal["absent", "stopped", "busy"]

RETIRE_WAIT_S: Final = 6
STOP_WAIT_S: Final = 20
"""A daemon that is told to stop ends its worker first, and keeps what that had measured."""

_STOP: Final = """
lock="$1/agent.lock"
[ -f "$lock" ] || { echo absent; exit; }
if flock -n "$lock" true; then echo absent; exit; fi
pid=$(sed -n 's/.*"pid": *\\([0-9][0-9]*\\).*/\\1/p' "$lock")
[ -n "$pid" ] || { echo busy; exit; }
kill -"$2" "$pid" 2>/dev/null
if flock -w "$3" "$lock" true; then echo stopped; exit; fi
if [ "$4" = force ]; then
  kill -KILL "$pid" 2>/dev/null
  if flock -w "$3" "$lock" true; then echo stopped; exit; fi
fi
echo busy
"""
"""The lock's text names the one process that holds it; while it is held the number is nobody
else's. SIGUSR1 ends a daemon that no run is using (agent.daemon)."""


def stop(shell: Shell, home: str, *, force: bool = False) -> State:
    """Stop the daemon of a home: at once where no run uses it, with `force` in any case."""
    ask = ("TERM", str(STOP_WAIT_S), "force") if force else ("USR1", str(RETIRE_WAIT_S), "")
    said = run_script(shell, _STOP, home, *ask).stdout.split()
    if said == ["absent"]:
        return "absent"
    return "stopped" if said == ["stopped"] else "busy"

"""Journals that no host has fetched, as the doctor tells of them.

A host that meets the board again acknowledges those that it has stored; `resume` of their run
fetches the others. Nothing measured is deleted for its age or number: where too much waits, no
trial is begun (agent.admission.check_journals).
"""

from __future__ import annotations

from pathlib import Path

from agent.journal import Journal, all_journals
from agent.wire import Wire, WireError


class Waiting(Wire, frozen=True):
    """Journals of ended trials that are on the board, as bytes by run."""

    journals: int
    bytes_by_run: dict[str, int]


def waiting(trials: Path) -> Waiting:
    """What has ended and is there now."""
    held: dict[str, int] = {}
    ended = [journal for journal in all_journals(trials) if journal.outcome() is not None]
    for journal in ended:
        run_id = _run_of(journal)
        held[run_id] = held.get(run_id, 0) + journal.size_bytes()
    return Waiting(len(ended), held)


def _run_of(journal: Journal) -> str:
    try:
        return journal.spec().run_id
    except (OSError, WireError):
        return "unknown"

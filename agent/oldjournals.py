"""Journals that no host has fetched: what becomes of them.

A host that meets the board again acknowledges those that it has stored. `resume` of their run
fetches the others; the doctor names the runs. They are kept until there are too many: then the
oldest of other runs go, so that a board is of use again without a person, and the doctor says so.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Final

from agent.journal import Journal, all_journals
from agent.samplefile import replace_file
from agent.wire import Wire, WireError, decode, encode

MAX_JOURNALS: Final = 1000
"""Beside the limit in bytes: so many are quick to list."""

_NOTE: Final = ".removed.json"
_RUNS: Final = 10
"""How many runs a note names."""

_log = logging.getLogger(__name__)


class Removed(Wire, frozen=True):
    """Journals that went to make room: how many in all, their bytes, and the last of their runs."""

    journals: int = 0
    size_bytes: int = 0
    runs: tuple[str, ...] = ()


class Waiting(Wire, frozen=True):
    """Journals that are on the board, as bytes by run, and what was removed before."""

    journals: int
    bytes_by_run: dict[str, int]
    removed: Removed


def waiting(trials: Path) -> Waiting:
    """What has ended and is there now."""
    held: dict[str, int] = {}
    ended = [journal for journal in all_journals(trials) if journal.outcome() is not None]
    for journal in ended:
        run_id = _run_of(journal)
        held[run_id] = held.get(run_id, 0) + journal.size_bytes()
    return Waiting(len(ended), held, removed(trials))


def removed(trials: Path) -> Removed:
    """What was removed so far."""
    with contextlib.suppress(OSError, WireError):
        return decode((trials / _NOTE).read_bytes(), Removed)
    return Removed()


def make_room(
    trials: Path, run_id: str, limit_bytes: int, limit_journals: int = MAX_JOURNALS
) -> None:
    """Remove the oldest ended journals of other runs than `run_id` until the rest is within limits.

    Raises OSError.
    """
    journals = all_journals(trials)
    sizes = {journal.trial_id: journal.size_bytes() for journal in journals}
    total, count = sum(sizes.values()), len(sizes)
    for journal in journals:
        if total <= limit_bytes and count < limit_journals:
            return
        theirs = _run_of(journal)
        if theirs == run_id or journal.outcome() is None:
            continue
        size = sizes[journal.trial_id]
        _note(trials, theirs, size)
        journal.forget()
        total, count = total - size, count - 1


def _run_of(journal: Journal) -> str:
    try:
        return journal.spec().run_id
    except (OSError, WireError):
        return "unknown"


def _note(trials: Path, run_id: str, size_bytes: int) -> None:
    before = removed(trials)
    runs = (*(run for run in before.runs if run != run_id), run_id)[-_RUNS:]
    after = Removed(before.journals + 1, before.size_bytes + size_bytes, runs)
    _log.warning("a journal of run %s was removed to make room: nobody fetched it", run_id)
    replace_file(trials / _NOTE, encode(after).encode())

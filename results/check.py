"""Does a database still say what was measured? Everything that can be derived is derived anew."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from results.digest import Value, content_digest, samples_digest, text_digest
from results.rows import IMAGE_COLUMNS, READING_COLUMNS
from results.stats import reading_summary, summary

if TYPE_CHECKING:
    from results.store import Store

_TOLERANCE: Final = 1e-9
"""Relative; another processor may sum floats in another order."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where."""

    where: str
    what: str


def check(store: Store) -> list[Problem]:
    """Verify structure, foreign keys, digests, counts and summaries; an empty list is good.

    Reads every sample. Raises ResultsError when the database cannot be read at all.
    """
    return [*_structure(store), *_fingerprints(store), *_trials(store)]


def recompute(store: Store, trial_no: int) -> dict[str, Value]:
    """The summary of a trial, from its stored samples and readings."""
    found = asdict(summary(store.samples(trial_no)))
    return found | asdict(reading_summary(store.readings(trial_no)))


def repair_summaries(store: Store) -> int:
    """Write anew each summary that differs from its samples and readings; how many did."""
    wrong = 0
    for row in store.rows("SELECT trial_no FROM trials ORDER BY trial_no"):
        trial_no = row["trial_no"]
        fresh = recompute(store, trial_no)
        if _summary_differs(store, trial_no, fresh):
            store.replace_summary(trial_no, fresh)
            wrong += 1
    return wrong


def _structure(store: Store) -> Iterator[Problem]:
    """SQLite's own checks; PostgreSQL keeps its constraints itself."""
    if store.dialect != "sqlite":
        return
    for row in store.rows("PRAGMA integrity_check"):
        if row["integrity_check"] != "ok":
            yield Problem("file", row["integrity_check"])
    for row in store.rows("PRAGMA foreign_key_check"):
        yield Problem(f"{row['table']} row {row['rowid']}", f"has no {row['parent']} row")


def _fingerprints(store: Store) -> Iterator[Problem]:
    for row in store.rows("SELECT fingerprint_sha256, fingerprint_json FROM fingerprints"):
        if text_digest(row["fingerprint_json"]) != row["fingerprint_sha256"]:
            yield Problem(f"fingerprint {row['fingerprint_sha256']}", "its content was changed")


def _trials(store: Store) -> Iterator[Problem]:
    for row in store.rows("SELECT trial_no FROM trials ORDER BY trial_no"):
        yield from _trial(store, row["trial_no"])


def _trial(store: Store, trial_no: int) -> Iterator[Problem]:
    (trial,) = store.rows("SELECT * FROM trials WHERE trial_no = :no", no=trial_no)
    where = f"trial {trial_no} ({trial['trial_id']} on {trial['board']})"
    for table in ("samples", "readings"):
        # The table's name is one of two constants.
        gaps = f"""SELECT COUNT(*) AS n, MAX(seq) AS last FROM {table}
                   WHERE trial_no = :no"""  # noqa: S608
        (found,) = store.rows(gaps, no=trial_no)
        if found["n"] and found["last"] != found["n"] - 1:
            yield Problem(where, f"{table}: {found['n']} rows, the last has seq {found['last']}")
    if _phases_out_of_order(store, trial_no):
        yield Problem(where, "samples: phases are out of order")
    samples = store.samples(trial_no)
    if (samples_digest(samples) if samples else None) != trial["samples_sha256"]:
        yield Problem(where, "samples were changed since they were stored")
    if _content(store, trial) != trial["content_sha256"]:
        yield Problem(where, "trial, readings or evaluation were changed since they were stored")
    if _summary_differs(store, trial_no, recompute(store, trial_no)):
        yield Problem(where, "summary is not that of its samples and readings: repair_summaries")


def _phases_out_of_order(store: Store, trial_no: int) -> bool:
    spans = store.rows(
        """SELECT MIN(seq) AS first, MAX(seq) AS last FROM samples WHERE trial_no = :no
           GROUP BY phase ORDER BY phase""",
        no=trial_no,
    )
    return any(a["last"] > b["first"] for a, b in pairwise(spans))


def _content(store: Store, trial: Mapping[str, Any]) -> str:
    no = trial["trial_no"]
    readings = store.readings(no)
    columns = [[getattr(reading, name) for name in READING_COLUMNS] for reading in readings]
    evaluations = store.rows("SELECT * FROM evaluations WHERE trial_no = :no", no=no)
    scores = store.rows(
        """SELECT i.* FROM image_scores i JOIN evaluations e ON e.evaluation_no = i.evaluation_no
           WHERE e.trial_no = :no ORDER BY i.place""",
        no=no,
    )
    images = [[score[name] for name in IMAGE_COLUMNS] for score in scores]
    return content_digest(trial, columns, evaluations[0] if evaluations else None, images)


def _summary_differs(store: Store, trial_no: int, fresh: Mapping[str, Value]) -> bool:
    stored = store.rows("SELECT * FROM summaries WHERE trial_no = :no", no=trial_no)
    return len(stored) != 1 or not all(
        _close(stored[0][name], value) for name, value in fresh.items()
    )


def _close(stored: Any, fresh: Value) -> bool:
    if isinstance(stored, float) and isinstance(fresh, float):
        return math.isclose(stored, fresh, rel_tol=_TOLERANCE)
    return bool(stored == fresh)

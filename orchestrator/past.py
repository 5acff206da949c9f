"""What an earlier part of the same run left: the ground that `resume` goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from agent.wire import Fingerprint
from orchestrator.errors import ExperimentError, nearest
from orchestrator.execute import attempt_id
from orchestrator.experiment import Experiment
from orchestrator.plan import RunRequest
from results.errors import UnknownRun
from results.queries import BASELINE, RunRow, runs
from results.store import Store

VariantKey = tuple[str, str, str]
"""Model, recipe, instruction set."""


@dataclass(frozen=True)
class Past:
    """Trials of a run that are stored; empty for a run that begins.

    `attempts` has the last attempt of each (board, trial_id) that did not finish.
    """

    finished: frozenset[tuple[str, str]] = frozenset()
    attempts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    artifacts: Mapping[VariantKey, str] = field(default_factory=dict)
    boards: Mapping[str, tuple[str, int, str | None]] = field(default_factory=dict)
    """Instruction set, core count and serial number by board, as the run met them."""

    def other_board(self, name: str, found: Fingerprint) -> str | None:
        """Why the board that answers now is not the one that the run began on, or None."""
        before = self.boards.get(name)
        now = (found.isa, found.cpu_count, found.serial)
        if before is None or before == now:
            return None
        return (
            f"the run began on another board ({_facts(before)}), not on {_facts(now)}; "
            f"start a new run"
        )

    def other_artifact(self, key: VariantKey, sha256: str) -> str | None:
        """Why an artifact that is built now is not the one that was measured, or None."""
        before = self.artifacts.get(key)
        if before is None or before == sha256:
            return None
        return (
            f"{'/'.join(key)}: the artifact is {sha256[:12]} now and was {before[:12]} when the "
            f"run began (the model, its data or a tool has changed); start a new run"
        )


def _facts(facts: tuple[str, int, str | None]) -> str:
    isa, cpu_count, serial = facts
    return f"{isa}, {cpu_count} cores, serial {serial or 'unknown'}"


def find_run(store: Store, run_id: str | None) -> RunRow:
    """The run of that id, or the only one that begins so, or the latest; raises UnknownRun.

    What `build --score` stored is finished without a trial, and never the latest.
    """
    found = runs(store)
    if not found:
        raise UnknownRun("no run is stored yet; `orchestrator run` makes one")
    if run_id is None:
        return next((run for run in found if run.trials or run.state != "finished"), found[0])
    exact = [run for run in found if run.run_id == run_id]
    matches = exact or [run for run in found if run.run_id.startswith(run_id)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UnknownRun(f"{len(matches)} runs begin with '{run_id}': {_some(matches)}")
    near = nearest(run_id, [run.run_id for run in found])
    guess = f"; did you mean '{near}'?" if near else ""
    raise UnknownRun(f"no run '{run_id}'{guess} (newest: {_some(found)})")


def _some(found: Sequence[RunRow]) -> str:
    ids = [run.run_id for run in found[:5]]
    return ", ".join(ids) + (", …" if len(found) > len(ids) else "")


def recall(store: Store, run_id: str) -> Past:
    """What is stored of a run."""
    trials = store.rows(
        "SELECT board, trial_id, MAX(attempt) AS attempt, "
        "MAX(CASE WHEN state = 'finished' THEN 1 ELSE 0 END) AS finished "
        "FROM trials WHERE run_id = :run_id GROUP BY board, trial_id",
        run_id=run_id,
    )
    variants = store.rows(
        "SELECT DISTINCT model, recipe, isa, artifact_sha256 FROM trials WHERE run_id = :run_id",
        run_id=run_id,
    )
    boards = store.rows(
        "SELECT b.name, f.isa, f.cpu_count, f.serial FROM boards b "
        "JOIN fingerprints f ON f.fingerprint_sha256 = b.fingerprint_sha256 "
        "WHERE b.run_id = :run_id ORDER BY b.hello_utc DESC",
        run_id=run_id,
    )
    return Past(
        frozenset((row["board"], row["trial_id"]) for row in trials if row["finished"]),
        {(row["board"], row["trial_id"]): row["attempt"] for row in trials if not row["finished"]},
        {(v["model"], v["recipe"], v["isa"]): v["artifact_sha256"] for v in variants},
        {row["name"]: (row["isa"], row["cpu_count"], row["serial"]) for row in boards},
    )


def stored_attempts(store: Store) -> frozenset[str]:
    """Every attempt of every run that is stored, by the id that its board knows it by."""
    rows = store.rows("SELECT trial_id, attempt FROM trials")
    return frozenset(attempt_id(row["trial_id"], row["attempt"]) for row in rows)


def request_of(store: Store, run_id: str) -> tuple[RunRequest, Experiment]:
    """The request and experiment of a stored run; raises UnknownRun, ExperimentError."""
    rows = store.rows("SELECT experiment_json FROM runs WHERE run_id = :run_id", run_id=run_id)
    if not rows:
        raise UnknownRun(f"run {run_id!r} is not in {store.shown}; `orchestrator runs` lists them")
    try:
        whole = json.loads(rows[0]["experiment_json"])
        return (
            msgspec.convert(whole["request"], RunRequest, dec_hook=_decode),
            msgspec.convert(whole["experiment"], Experiment, dec_hook=_decode),
        )
    except (ValueError, KeyError, TypeError, msgspec.ValidationError) as exc:
        raise ExperimentError(
            f"run {run_id} was stored by another version and cannot be resumed: {exc}"
        ) from exc


def baseline_of(store: Store, run_id: str) -> str:
    """The variant that a stored run compares with; fp32 where another version wrote the run."""
    try:
        return request_of(store, run_id)[1].baseline
    except ExperimentError:
        return BASELINE


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise TypeError(f"no {kind.__name__} can be made of {value!r}")

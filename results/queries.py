"""Questions asked of a store: past runs, the final table of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from results.errors import UnknownRun
from results.intervals import Ratio, paired_ratio
from results.stats import block_medians

if TYPE_CHECKING:
    from results.store import Store

BASELINE: Final = "fp32"
"""The variant that ratios are taken to: the empty recipe."""


@dataclass(frozen=True)
class RunRow:
    """One past run, for a list of them."""

    run_id: str
    state: str
    started_utc: str
    ended_utc: str | None
    experiment: str
    scale: str | None
    profile: str
    seed: int
    boards: tuple[str, ...]
    trials: int
    finished: int
    software_version: str


@dataclass(frozen=True)
class LeaderboardRow:
    """One line of a run's final table; None where there is no figure.

    Figures are medians over finished trials, as in the view v_leaderboard. `ratio` is p50 to
    the baseline's on the same board, over the blocks that both have, with its 95 % interval;
    None for the baseline itself and where there is nothing to compare.
    """

    rank: int | None
    board: str
    board_model: str | None
    emulated: bool
    model: str
    variant: str
    recipe: str
    isa: str
    scenario: str
    threads: int
    runtime: str
    size_bytes: int
    trials: int
    blocks: int
    unfinished: int
    short_trials: int
    n: int
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    fps: float | None
    map50: float | None
    map50_95: float | None
    dice: float | None
    iou: float | None
    eval_set: str | None
    eval_split: str | None
    eval_images: int | None
    eval_seed: int | None
    evaluator: str | None
    eval_place: str | None
    temp_max_c: float | None
    throttled: int | None
    artifact_sha256: str
    ratio: Ratio | None


def runs(store: Store, *, limit: int | None = None) -> list[RunRow]:
    """Past runs, newest first."""
    sql = """
        SELECT r.run_id, r.state, r.started_utc, r.ended_utc, r.experiment, r.profile, r.seed,
          r.software_version, r.experiment_json,
          (SELECT COUNT(*) FROM (SELECT DISTINCT t.board, t.trial_id FROM trials t
             WHERE t.run_id = r.run_id) AS one_each) AS trials,
          (SELECT COUNT(*) FROM trials t
             WHERE t.run_id = r.run_id AND t.state = 'finished') AS finished
        FROM runs r ORDER BY r.started_utc DESC, r.run_id DESC LIMIT :limit"""
    boards: dict[str, list[str]] = {}
    for row in store.rows("SELECT DISTINCT run_id, name FROM boards ORDER BY run_id, name"):
        boards.setdefault(row["run_id"], []).append(row["name"])
    found = store.rows(sql, limit=limit if limit is not None else 2**31)
    return [
        RunRow(
            **{name: row[name] for name in row.keys() - {"experiment_json"}},
            scale=scale_of(row["experiment_json"]),
            boards=tuple(boards.get(row["run_id"], ())),
        )
        for row in found
    ]


def scale_of(experiment_json: str) -> str | None:
    """The scale of a stored run's experiment; None where it has one size."""
    whole = json.loads(experiment_json)
    experiment = whole.get("experiment") if isinstance(whole, dict) else None
    scale = experiment.get("scale") if isinstance(experiment, dict) else None
    return None if scale is None else str(scale)


def latest_run(store: Store) -> str:
    """Id of the run that started last; raises UnknownRun when there is none."""
    newest = runs(store, limit=1)
    if not newest:
        raise UnknownRun(f"{store.shown}: holds no run yet; `orchestrator run` makes one")
    return newest[0].run_id


def leaderboard(store: Store, run_id: str, baseline: str = BASELINE) -> list[LeaderboardRow]:
    """The final table of a run: by model, scenario and board, the fastest first.

    Ratios are to the variant `baseline`.

    Raises UnknownRun. A run without a stored trial has an empty table.
    """
    if not store.rows("SELECT run_id FROM runs WHERE run_id = :run_id", run_id=run_id):
        raise UnknownRun(f"run {run_id!r} is not in {store.shown}; `orchestrator runs` lists them")
    rows = store.rows("SELECT * FROM v_leaderboard WHERE run_id = :run_id", run_id=run_id)
    blocks = _blocks(store, run_id)
    table = [_row(row, blocks, baseline) for row in rows]
    return sorted(table, key=_order)


def _order(row: LeaderboardRow) -> tuple[object, ...]:
    place = (row.p50_ms is None, row.p50_ms or 0.0)
    return (row.model, row.scenario, row.emulated, row.board, place, row.variant, row.threads)


_Group = tuple[object, ...]


def _blocks(store: Store, run_id: str) -> dict[_Group, dict[int, float]]:
    """Median p50 (ms) of each block, of each group of trials."""
    points: dict[_Group, list[tuple[int, float | None]]] = {}
    sql = """
        SELECT board, model, scenario, threads, variant, artifact_sha256, block, p50_ms
        FROM v_trials WHERE run_id = :run_id AND state = 'finished' AND p50_ms > 0"""
    for row in store.rows(sql, run_id=run_id):
        points.setdefault(_group(row), []).append((row["block"], row["p50_ms"]))
    return {group: block_medians(values) for group, values in points.items()}


def _group(row: Mapping[str, Any]) -> _Group:
    names = ("board", "model", "scenario", "threads", "variant", "artifact_sha256")
    return tuple(row[name] for name in names)


def _row(
    row: Mapping[str, Any], blocks: Mapping[_Group, Mapping[int, float]], baseline: str
) -> LeaderboardRow:
    own, where = blocks.get(_group(row), {}), _group(row)[:4]
    baselines = [values for group, values in blocks.items() if group[:5] == (*where, baseline)]
    ratio = None
    if row["variant"] != baseline and len(baselines) == 1:
        ratio = paired_ratio(own, baselines[0])
    fields = {name: row[name] for name in row.keys() - {"run_id", "ratio_to_fp32"}}
    return LeaderboardRow(**fields | {"emulated": bool(row["emulated"])}, ratio=ratio)

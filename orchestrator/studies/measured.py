"""What a stored run measured, in the order and the words of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from models.store import CurvePoint, Manifest
from orchestrator.studies.findings import Figure
from orchestrator.studies.published import AccuracyName, PublishedRow, Study, Variant, What
from results.compare import Verdict, compare
from results.errors import ResultsError
from results.queries import LeaderboardRow, leaderboard, scale_of
from results.sides import Selector
from results.store import Store

_BYTES_PER_MB: Final = 1e6


@dataclass(frozen=True)
class Run:
    """The facts of a run that a reader needs to weigh its figures."""

    run_id: str
    experiment: str
    state: str
    scale: str | None
    profile: str
    started_utc: str
    software_version: str
    blocks: int


@dataclass(frozen=True)
class Line:
    """One variant on one board."""

    row: LeaderboardRow
    manifest: Manifest | None
    """None where another version wrote one that cannot be read."""

    @property
    def size_mb(self) -> float:
        """Of the file, in 1e6 bytes."""
        return self.row.size_bytes / _BYTES_PER_MB

    @property
    def parameters(self) -> int | None:
        """Trained numbers of the network."""
        return None if self.manifest is None else self.manifest.parameters

    @property
    def label(self) -> str:
        """Model and variant."""
        return f"{self.row.model}/{self.row.variant}"


class Measured:
    """A run's lines, and ratios between any two of them on the same board."""

    def __init__(self, store: Store, run_id: str, baseline: str) -> None:
        self._store = store
        self._run_id = run_id
        self.baseline = baseline
        self.run = _run(store, run_id)
        manifests = {
            row["artifact_sha256"]: _manifest(row["manifest_json"])
            for row in store.rows(_MANIFESTS, run_id=run_id)
        }
        self.lines = tuple(
            Line(row, manifests[row.artifact_sha256])
            for row in leaderboard(store, run_id, baseline)
        )
        self._verdicts: dict[tuple[str, ...], Verdict | None] = {}

    @property
    def boards(self) -> tuple[str, ...]:
        """Names of the boards that measured something."""
        return tuple(dict.fromkeys(line.row.board for line in self.lines))

    def line(self, board: str, variant: Variant | PublishedRow) -> Line | None:
        """The line of a variant on a board; None where it was not measured."""
        found = [
            line
            for line in self.lines
            if line.row.board == board
            and line.row.model in variant.models
            and line.row.recipe == variant.recipe
        ]
        return found[0] if found else None

    def figure(self, what: What, accuracy: AccuracyName, a: Line, b: Line) -> Figure | None:
        """Size and latency as a / b, accuracy as a - b; None where it cannot be said."""
        if what == "size":
            ratio = a.row.size_bytes / b.row.size_bytes
            return Figure(ratio, ratio, ratio)
        if a == b:
            exact = 1.0 if what == "latency" else 0.0
            none = what == "latency" and a.row.emulated
            return None if none else Figure(exact, exact, exact)
        verdict = self._verdict(a, b)
        if verdict is None:
            return None
        return _latency(a, verdict) if what == "latency" else _accuracy(accuracy, verdict)

    def why_not(self, what: What, a: Line, b: Line) -> tuple[str, ...]:
        """Why `figure` is None although both were measured; A is the first, B the other."""
        verdict = self._verdict(a, b)
        if verdict is None:
            return ("they fit no group of trials",)
        if what == "latency":
            return tuple(reason.message for reason in verdict.latency_reasons)
        if verdict.accuracy is None:
            return tuple(reason.message for reason in verdict.accuracy_reasons)
        return (verdict.accuracy.no_interval or "there is no such figure",)

    def price(self, accuracy: AccuracyName, a: Line, b: Line, base: Line) -> Figure | None:
        """Accuracy lost for each MB saved against `base`: that of `a` less that of `b`.

        The interval is the widest that both of their intervals allow.
        """
        one, other = self._price(accuracy, a, base), self._price(accuracy, b, base)
        if one is None or other is None:
            return None
        return Figure(one.value - other.value, one.low - other.high, one.high - other.low)

    def _price(self, accuracy: AccuracyName, line: Line, base: Line) -> Figure | None:
        gained = self.figure("accuracy", accuracy, line, base)
        saved_mb = base.size_mb - line.size_mb
        if gained is None or saved_mb <= 0:
            return None
        return Figure(-gained.value / saved_mb, -gained.high / saved_mb, -gained.low / saved_mb)

    def cpu_model(self, board: str) -> str | None:
        """What its processor calls itself."""
        rows = self._store.rows(_CPU, run_id=self._run_id, board=board)
        return rows[0]["cpu_model"] if rows else None

    def _verdict(self, a: Line, b: Line) -> Verdict | None:
        key = (a.row.board, a.label, b.label)
        if key not in self._verdicts:
            try:
                sides = [_selector(self._run_id, line) for line in (a, b)]
                self._verdicts[key] = compare(self._store, *sides, across=("model",))
            except ResultsError:
                self._verdicts[key] = None
        return self._verdicts[key]

    @property
    def sustained(self) -> bool:
        """Whether it has trials without a pause."""
        return any(line.row.scenario == "sustained" for line in self.lines)

    def temperatures(self, bin_c: int) -> Sequence[Mapping[str, Any]]:
        """Mean latency of sustained trials by board, variant and `slot`: degrees C / `bin_c`."""
        return self._store.rows(_BY_TEMP, run_id=self._run_id, bin=float(bin_c))

    def courses(self, bin_s: float) -> Sequence[Mapping[str, Any]]:
        """Mean latency of sustained trials by board, variant and `slot`: seconds / `bin_s`."""
        return self._store.rows(_BY_TIME, run_id=self._run_id, bin=bin_s)

    def longest_s(self) -> float:
        """When the last inference of any sustained trial began, from its trial's first."""
        (row,) = self._store.rows(_LAST, run_id=self._run_id)
        return float(row["last_s"] or 0.0)


@dataclass(frozen=True)
class Material:
    """What a page is made of.

    `sustained` is the run that temperatures are taken from, `whole` the one at the full size of
    the networks, where there are any.
    """

    run: Measured
    study: Study | None
    sustained: Measured | None
    whole: Measured | None


_CPU: Final = """
    SELECT f.cpu_model FROM boards b
    JOIN fingerprints f ON f.fingerprint_sha256 = b.fingerprint_sha256
    WHERE b.run_id = :run_id AND b.name = :board ORDER BY b.board_no DESC"""

_MANIFESTS: Final = """
    SELECT DISTINCT a.artifact_sha256, a.manifest_json FROM artifacts a
    JOIN trials t ON t.artifact_sha256 = a.artifact_sha256 WHERE t.run_id = :run_id"""


def _floor(number: str) -> str:
    """SQL that rounds down: a cast truncates in SQLite and rounds to the nearest in PostgreSQL."""
    cast = f"CAST({number} AS INTEGER)"
    return f"({cast} - CASE WHEN {cast} > {number} THEN 1 ELSE 0 END)"


_BINNED: Final = """
    SELECT board, model, variant, {bin} AS slot,
      COUNT(*) AS n, AVG(latency_ms) AS mean_ms, MIN(at_s) AS from_s, MAX(at_s) AS to_s
    FROM v_latency_by_temp
    WHERE run_id = :run_id AND scenario = 'sustained' AND phase = 2 AND emulated = 0
      AND {value} IS NOT NULL
    GROUP BY board, model, variant, {bin}
    ORDER BY board, model, variant, slot"""
_BY_TEMP: Final = _BINNED.format(bin=_floor("(temp_c / :bin)"), value="temp_c")
_BY_TIME: Final = _BINNED.format(bin=_floor("(at_s / :bin)"), value="at_s")

_LAST: Final = """
    SELECT MAX(at_s) AS last_s FROM v_latency_by_temp
    WHERE run_id = :run_id AND scenario = 'sustained' AND phase = 2 AND emulated = 0"""


def latest_run(store: Store, experiment: str, scale: str | None = None) -> str | None:
    """The newest run of an experiment with a finished trial; at a scale, where one is given.

    One that is whole comes before a newer one that was cut short.
    """
    for row in store.rows(_LATEST, experiment=experiment):
        if scale in (None, scale_of(row["experiment_json"])):
            return str(row["run_id"])
    return None


_LATEST: Final = """
    SELECT r.run_id, r.experiment_json FROM runs r WHERE r.experiment = :experiment AND EXISTS (
      SELECT 1 FROM trials t WHERE t.run_id = r.run_id AND t.state = 'finished')
    ORDER BY CASE WHEN r.state = 'finished' THEN 0 ELSE 1 END, r.started_utc DESC"""


_Losses = tuple[tuple[int, float], ...]
"""Epochs and losses: what two accounts of one training have in common."""


def curves(lines: Sequence[Line]) -> dict[str, tuple[CurvePoint, ...]]:
    """Learning curves by model, and by model and variant where more was learned on the way to it.

    What several variants or boards share stands once, under the one with the fewest steps. Of the
    same training, known by its losses, the curves are shown that were scored most often: a file
    that was made before keeps its older manifest.
    """
    trained = [
        (line, line.manifest.curves, len(line.manifest.steps))
        for line in lines
        if line.manifest is not None and line.manifest.curves
    ]
    fullest: dict[tuple[str, _Losses], tuple[CurvePoint, ...]] = {}
    for line, learned, _ in trained:
        key = (line.row.model, _losses(learned))
        fullest[key] = max(fullest.get(key, ()), learned, key=len)
    found: dict[str, tuple[CurvePoint, ...]] = {}
    for line, learned, _ in sorted(trained, key=lambda each: each[2]):
        shown = fullest.pop((line.row.model, _losses(learned)), None)
        if shown is not None:
            found[line.label if line.row.model in found else line.row.model] = shown
    return dict(sorted(found.items()))


def _losses(learned: Sequence[CurvePoint]) -> _Losses:
    return tuple((point.epoch, point.value) for point in learned if point.metric == "loss")


def labelled(study: Study, label: str | None) -> Variant | PublishedRow:
    """The row of a label; the baseline for None."""
    return study.baseline if label is None else study.row(label)


def _manifest(text: str) -> Manifest | None:
    try:
        return msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError:
        return None


def _run(store: Store, run_id: str) -> Run:
    (row,) = store.rows(
        "SELECT experiment, experiment_json, state, profile, started_utc, software_version "
        "FROM runs WHERE run_id = :run_id",
        run_id=run_id,
    )
    (blocks,) = store.rows(
        "SELECT COUNT(DISTINCT block) AS n FROM trials WHERE run_id = :run_id", run_id=run_id
    )
    return Run(
        run_id=run_id,
        experiment=row["experiment"],
        state=row["state"],
        scale=scale_of(row["experiment_json"]),
        profile=row["profile"],
        started_utc=row["started_utc"],
        software_version=row["software_version"],
        blocks=blocks["n"],
    )


def _selector(run_id: str, line: Line) -> Selector:
    row = line.row
    return Selector(
        run=run_id,
        board=row.board,
        model=row.model,
        variant=row.variant,
        isa=row.isa,
        scenario=row.scenario,
        threads=row.threads,
    )


def _latency(a: Line, verdict: Verdict) -> Figure | None:
    """None on an emulated board: its times mean nothing."""
    ratio = verdict.latency
    if a.row.emulated or ratio is None or ratio.low is None or ratio.high is None:
        return None
    return Figure(ratio.value, ratio.low, ratio.high)


def _accuracy(name: AccuracyName, verdict: Verdict) -> Figure | None:
    difference = verdict.accuracy
    if difference is None:
        return None
    value, interval = getattr(difference, name), difference.intervals.get(name)
    if value is None or interval is None:
        return None
    return Figure(value, interval.low, interval.high)

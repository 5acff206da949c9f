"""The store: records go in, each in one transaction, exactly once; finished trials are frozen.

A Store belongs to one thread. Other processes may read the file at any time.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sqlalchemy import Connection, Engine, func, select, text, update

from agent.wire import Reading, Samples
from results.digest import Value
from results.engine import BUSY_TIMEOUT_MS, WRITE, Opening, open_engine, translated
from results.errors import RecordRefused
from results.records import (
    ArtifactRecord,
    BoardRecord,
    EndOfRun,
    EvaluationRecord,
    Recorded,
    RunRecord,
    TrialRecord,
)
from results.rows import (
    READING_COLUMNS,
    artifact_row,
    board_row,
    evaluation_row,
    fingerprint_row,
    image_rows,
    run_row,
    trial_rows,
    utc_text,
)
from results.schema import (
    Artifact,
    Board,
    EvaluationRow,
    FingerprintRow,
    ReadingRow,
    Run,
    Sample,
    Summary,
    Trial,
)
from results.writing import (
    already,
    find,
    insert_evaluation,
    insert_row,
    insert_trial,
    known_run,
    require_same,
    table_of,
)

_SAME_ARTIFACT = ("size_bytes", "format")
_EVALUATION_KEY = (
    "run_id",
    "artifact_sha256",
    "place",
    "set_name",
    "split",
    "images",
    "subset_seed",
    "evaluator",
    "evaluator_version",
)


class Store:
    """A database of results, opened with `Store.open`."""

    def __init__(self, engine: Engine, shown: str) -> None:
        self._engine = engine
        self.shown: Final = shown
        """The location, fit to print."""
        self.dialect: Final = engine.dialect.name
        """sqlite or postgresql."""

    @classmethod
    def open(
        cls,
        location: str | Path,
        *,
        create: bool,
        read_only: bool = False,
        busy_timeout_ms: int = BUSY_TIMEOUT_MS,
    ) -> Self:
        """Open a SQLite file (a path) or a database by SQLAlchemy URL.

        `create` makes a missing or empty one. Raises DatabaseTooNew or ResultsError.
        """
        return cls(*open_engine(location, Opening(create, read_only, busy_timeout_ms)))

    def close(self) -> None:
        """Close all connections; SQLite then folds its log into the file."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def record_run(self, run: RunRecord) -> Recorded:
        """Store a run as running; the same run again changes nothing."""
        row = run_row(run)
        with self._writing() as connection:
            found = find(connection, Run, run_id=run.run_id)
            if found is None:
                insert_row(connection, Run, row)
                return Recorded.STORED
        require_same(f"run {run.run_id!r}", found, row, set(row) - {"state", "ended_utc"})
        return Recorded.ALREADY

    def resume_run(self, run_id: str) -> None:
        """Mark a run that did not finish as running again; raises RecordRefused otherwise."""
        with self._writing() as connection:
            state = known_run(connection, run_id)["state"]
            if state == "finished":
                raise RecordRefused(f"run {run_id!r} has finished; start another")
            connection.execute(
                update(Run).where(Run.run_id == run_id).values(state="running", ended_utc=None)
            )

    def finish_run(self, run_id: str, state: EndOfRun, ended_utc: datetime) -> Recorded:
        """Note how and when a run ended; a finished run stays as it is."""
        with self._writing() as connection:
            found = known_run(connection, run_id)["state"]
            if found == "finished":
                if state != "finished":
                    raise RecordRefused(f"run {run_id!r} has finished; it cannot be {state}")
                return Recorded.ALREADY
            ended = {"state": state, "ended_utc": utc_text(ended_utc)}
            connection.execute(update(Run).where(Run.run_id == run_id).values(ended))
        return Recorded.STORED

    def record_board(self, run_id: str, board: BoardRecord) -> Recorded:
        """Store a board as the run met it; known with this fingerprint, it stays as it was."""
        fingerprint, row = fingerprint_row(board), board_row(run_id, board)
        digest = fingerprint["fingerprint_sha256"]
        with self._writing() as connection:
            known_run(connection, run_id)
            if find(connection, FingerprintRow, fingerprint_sha256=digest) is None:
                insert_row(connection, FingerprintRow, fingerprint)
            key = {"run_id": run_id, "name": board.name, "fingerprint_sha256": digest}
            if find(connection, Board, **key) is not None:
                return Recorded.ALREADY
            insert_row(connection, Board, row)
        return Recorded.STORED

    def record_artifact(self, artifact: ArtifactRecord) -> Recorded:
        """Store an artifact; one of equal content keeps the labels it was first given."""
        row = artifact_row(artifact)
        with self._writing() as connection:
            found = find(connection, Artifact, artifact_sha256=artifact.sha256)
            if found is None:
                insert_row(connection, Artifact, row)
                return Recorded.STORED
        require_same(f"artifact {artifact.sha256}", found, row, _SAME_ARTIFACT)
        return Recorded.ALREADY

    def record_trial(self, record: TrialRecord) -> Recorded:
        """Store an attempt at a trial with all that it measured: all of it or nothing.

        The same attempt again is a no-op that answers ALREADY. Raises RecordRefused when its
        content differs from what is stored, when another attempt has finished, or when its
        board or artifact was not recorded before.
        """
        rows = trial_rows(record)
        with self._writing() as connection:
            if already(connection, rows.trial):
                return Recorded.ALREADY
            insert_trial(connection, rows)
        return Recorded.STORED

    def record_evaluation(
        self, run_id: str, artifact_sha256: str, evaluation: EvaluationRecord
    ) -> Recorded:
        """Store the accuracy of an artifact that the host evaluated for a run."""
        row = evaluation_row(run_id, artifact_sha256, evaluation)
        if evaluation.where != "host":
            raise RecordRefused("an evaluation on a board belongs to its trial: record_trial")
        with self._writing() as connection:
            found = find(connection, EvaluationRow, **{name: row[name] for name in _EVALUATION_KEY})
            if found is None:
                insert_evaluation(connection, row, image_rows(evaluation))
                return Recorded.STORED
        require_same(f"evaluation of {artifact_sha256}", found, row, set(row))
        return Recorded.ALREADY

    def finished_trials(self, run_id: str) -> set[tuple[str, str]]:
        """(board, trial_id) of the trials of a run that need not be measured again."""
        with self._reading() as connection:
            known_run(connection, run_id)
            query = select(Trial.board, Trial.trial_id).where(
                Trial.run_id == run_id, Trial.state == "finished"
            )
            return {(board, trial_id) for board, trial_id in connection.execute(query)}

    def attempts(self, run_id: str) -> dict[tuple[str, str], int]:
        """Highest stored attempt by (board, trial_id); a further one has the next number."""
        with self._reading() as connection:
            known_run(connection, run_id)
            query = (
                select(Trial.board, Trial.trial_id, func.max(Trial.attempt))
                .where(Trial.run_id == run_id)
                .group_by(Trial.board, Trial.trial_id)
            )
            return {(board, trial_id): n for board, trial_id, n in connection.execute(query)}

    def rows(self, sql: str, **parameters: Value) -> list[Mapping[str, Any]]:
        """Rows of a SELECT of this package's own; `:name` marks a parameter."""
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(text(sql), parameters).mappings()]

    def samples(self, trial_no: int) -> Samples | None:
        """The samples of a trial in order; None when it has none."""
        counts, latency, gap = [0, 0, 0], array("Q"), array("Q")
        query = (
            select(Sample.phase, Sample.latency_ns, Sample.gap_ns)
            .where(Sample.trial_no == trial_no)
            .order_by(Sample.seq)
        )
        with self._reading() as connection:
            for phase, latency_ns, gap_ns in connection.execute(query):
                counts[phase] += 1
                latency.append(latency_ns)
                gap.append(gap_ns)
        return Samples((counts[0], counts[1], counts[2]), latency, gap) if latency else None

    def readings(self, trial_no: int) -> list[Reading]:
        """The telemetry of a trial, in order."""
        table = table_of(ReadingRow)
        query = (
            select(*(table.c[name] for name in READING_COLUMNS))
            .where(ReadingRow.trial_no == trial_no)
            .order_by(ReadingRow.seq)
        )
        with self._reading() as connection:
            return [Reading(*row) for row in connection.execute(query)]

    def replace_summary(self, trial_no: int, summary: Mapping[str, Value]) -> None:
        """Write a recomputed summary; the only stored figures that are derived."""
        with self._writing() as connection:
            connection.execute(
                update(Summary).where(Summary.trial_no == trial_no).values(dict(summary))
            )

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with translated(self.shown), self._engine.connect() as plain:
            connection = plain.execution_options(**{WRITE: True})
            with connection.begin():
                yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with translated(self.shown), self._engine.connect() as connection:
            yield connection

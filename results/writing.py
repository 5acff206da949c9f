"""Statements of the store, inside a transaction that the caller began."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from typing import Any, Final, cast

from sqlalchemy import Connection, Table, bindparam, insert, select

from agent.wire import Samples
from results.digest import Value
from results.errors import RecordRefused, UnknownRun
from results.rows import TrialRows
from results.schema import (
    Artifact,
    Base,
    Board,
    EvaluationRow,
    ImageScore,
    ReadingRow,
    Run,
    Sample,
    Summary,
    Trial,
)

_CHUNK_ROWS: Final = 20_000
"""Rows handed to the driver at once: bounds memory, and costs nothing in speed."""

# Built once, with bound parameters: building a statement costs more than running it.
_ATTEMPTS: Final = select(Trial.attempt, Trial.state, Trial.content_sha256).where(
    Trial.run_id == bindparam("run_id"),
    Trial.board == bindparam("board"),
    Trial.trial_id == bindparam("trial_id"),
)
_BOARD: Final = (
    select(Board.board_no)
    .where(Board.run_id == bindparam("run_id"), Board.name == bindparam("board"))
    .order_by(Board.board_no.desc())
    .limit(1)
)
_ARTIFACT: Final = select(Artifact.size_bytes).where(
    Artifact.artifact_sha256 == bindparam("sha256")
)


def already(connection: Connection, trial: Mapping[str, Value]) -> bool:
    """Whether exactly this attempt is stored; refuses one that would change the past."""
    what = f"trial {trial['trial_id']!r} on {trial['board']!r}"
    key = {name: trial[name] for name in ("run_id", "board", "trial_id")}
    for attempt, state, content in connection.execute(_ATTEMPTS, key).all():
        if attempt == trial["attempt"]:
            if content == trial["content_sha256"]:
                return True
            raise RecordRefused(f"{what}: attempt {attempt} is stored with other content")
        if state == "finished":
            raise RecordRefused(f"{what}: attempt {attempt} has finished; it is final")
    return False


def insert_trial(connection: Connection, rows: TrialRows) -> None:
    """Insert all rows of a trial; its board and its artifact must be there."""
    trial = rows.trial
    board_no = connection.scalar(_BOARD, {"run_id": trial["run_id"], "board": trial["board"]})
    artifact = connection.scalar(_ARTIFACT, {"sha256": trial["artifact_sha256"]})
    if board_no is None or artifact is None:
        missing = f"board {trial['board']!r}" if board_no is None else "its artifact"
        raise RecordRefused(
            f"trial {trial['trial_id']!r} of run {trial['run_id']!r}: {missing} is not recorded"
        )
    trial_no = insert_row(connection, Trial, {**trial, "board_no": board_no})
    insert_row(connection, Summary, {**rows.summary, "trial_no": trial_no})
    if rows.evaluation:
        insert_evaluation(connection, {**rows.evaluation, "trial_no": trial_no}, rows.images)
    bulk_insert(
        connection, ReadingRow, ((trial_no, seq, *r) for seq, r in enumerate(rows.readings))
    )
    if rows.samples:
        bulk_insert(connection, Sample, sample_rows(trial_no, rows.samples))


def insert_evaluation(
    connection: Connection, row: Mapping[str, Value], images: Sequence[Sequence[Value]]
) -> None:
    """Insert an evaluation and what it says of each image."""
    evaluation_no = insert_row(connection, EvaluationRow, row)
    bulk_insert(
        connection, ImageScore, ((evaluation_no, place, *r) for place, r in enumerate(images))
    )


def sample_rows(trial_no: int, samples: Samples) -> Iterator[tuple[int, int, int, int, int]]:
    """Rows of the table `samples`, in the order of its key and its columns."""
    phases = chain.from_iterable(repeat(phase, n) for phase, n in enumerate(samples.counts))
    total = sum(samples.counts)
    return zip(
        repeat(trial_no), range(total), phases, samples.latency_ns, samples.gap_ns, strict=False
    )


def insert_row(connection: Connection, entity: type[Base], row: Mapping[str, Value]) -> Any:
    """Insert one row; returns the first column of its key."""
    # The table, not the class: a statement without values in it is compiled only once.
    key = connection.execute(insert(table_of(entity)), dict(row)).inserted_primary_key
    return key[0] if key else None


def bulk_insert(
    connection: Connection, entity: type[Base], rows: Iterator[Sequence[Value]]
) -> None:
    """Insert tuples in the table's own column order, through the driver's executemany."""
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    table = table_of(entity)
    names = ", ".join(column.name for column in table.columns)
    marks = ", ".join(mark for _ in table.columns)
    # Both parts come from the schema; S608 cannot see that.
    sql = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"  # noqa: S608
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        connection.exec_driver_sql(sql, cast("list[tuple[Any, ...]]", chunk))


def find(connection: Connection, entity: type[Base], **key: Value) -> Mapping[str, Any] | None:
    """The first row with these values (None means NULL), or None."""
    table = table_of(entity)
    query = select(table).where(*(table.c[name].is_not_distinct_from(v) for name, v in key.items()))
    row = connection.execute(query).mappings().first()
    return dict(row) if row else None


def known_run(connection: Connection, run_id: str) -> Mapping[str, Any]:
    """The row of a run; raises UnknownRun."""
    found = find(connection, Run, run_id=run_id)
    if found is None:
        raise UnknownRun(f"run {run_id!r} is not in this database; `orchestrator runs` lists them")
    return found


def require_same(
    what: str, found: Mapping[str, Any], row: Mapping[str, Value], names: Collection[str]
) -> None:
    """Raise RecordRefused when the named columns of a stored row differ from a new one."""
    changed = sorted(name for name in names if found[name] != row[name])
    if changed:
        details = ", ".join(f"{name} {found[name]!r} (now {row[name]!r})" for name in changed)
        raise RecordRefused(f"{what} is stored with other content: {details[:2000]}")


def table_of(entity: type[Base]) -> Table:
    """The table of a mapped class."""
    return cast("Table", entity.__table__)

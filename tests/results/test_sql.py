from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from results.errors import QueryError
from results.sql import read_only_query
from results.sqlite_file import connect


def test_a_query_has_columns_and_rows(filled: Path) -> None:
    """A SELECT gives the names of its columns and its rows in order."""
    found = read_only_query(
        filled,
        "SELECT variant, block, n AS samples FROM v_trials WHERE board = 'pi5' ORDER BY 1, 2",
    )
    assert found.columns == ("variant", "block", "samples")
    assert found.rows[:2] == (("fp32", 0, 200), ("fp32", 1, 200))
    assert found.rows[2:] == (("int8_ptq", 0, 200), ("int8_ptq", 1, 200))
    assert found.truncated is False


def test_a_query_takes_parameters(filled: Path) -> None:
    """Values can be passed by place and by name."""
    by_place = read_only_query(filled, "SELECT COUNT(*) FROM trials WHERE board = ?", ["pi5"])
    by_name = read_only_query(filled, "SELECT COUNT(*) FROM trials WHERE board = :b", {"b": "pi5"})
    assert by_place.rows == by_name.rows == ((4,),)


@pytest.mark.parametrize(
    ("limit", "rows", "truncated"), [(None, 8, False), (8, 8, False), (3, 3, True), (0, 0, True)]
)
def test_a_limit_says_when_it_cut(
    filled: Path, limit: int | None, rows: int, *, truncated: bool
) -> None:
    """The limit keeps the first rows and says whether there were more."""
    found = read_only_query(filled, "SELECT * FROM trials", limit=limit)
    assert (len(found.rows), found.truncated) == (rows, truncated)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO runs SELECT * FROM runs",
        "UPDATE trials SET variant = 'x'",
        "DELETE FROM samples",
        "REPLACE INTO schema_info VALUES (1, 9, '9', '')",
        "DROP TABLE samples",
        "CREATE TABLE t (x)",
        "CREATE TEMP TABLE t (x)",
        "CREATE VIEW v AS SELECT 1",
        "ALTER TABLE runs RENAME TO walks",
        "ATTACH DATABASE '{other}' AS other",
        "ATTACH DATABASE ':memory:' AS other",
        "DETACH DATABASE main",
        "VACUUM",
        "VACUUM INTO '{other}'",
        "REINDEX",
        "ANALYZE",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "SAVEPOINT s",
        "PRAGMA user_version = 5",
        "PRAGMA query_only = OFF",
        "PRAGMA writable_schema = ON",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "SELECT * FROM pragma_journal_mode('delete')",
        "SELECT load_extension('evil')",
        "WITH x AS (SELECT 1) INSERT INTO runs SELECT * FROM runs",
        "WITH x AS (SELECT 1) DELETE FROM runs",
        "INSERT INTO runs SELECT * FROM runs RETURNING *",
        "EXPLAIN DELETE FROM runs",
        "SELECT 1; DELETE FROM runs",
        "/* SELECT */ DELETE FROM runs",
    ],
)
def test_a_query_cannot_write(filled: Path, tmp_path: Path, sql: str) -> None:
    """Nothing but reading is allowed, however it is dressed, and the file stays as it is."""
    before, other = filled.read_bytes(), tmp_path / "other.sqlite"
    with pytest.raises(QueryError):
        read_only_query(filled, sql.format(other=other))
    assert filled.read_bytes() == before
    assert not other.exists()


def test_the_file_itself_is_opened_read_only(filled: Path) -> None:
    """Even with every other lock undone, the connection could not write."""
    with closing(connect(filled, "ro", 0)) as connection:
        connection.execute("PRAGMA query_only = OFF")
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM samples")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", 'near "SELEC"'),
        ("SELECT p51_ms FROM v_trials", "no such column: p51_ms"),
        ("SELECT * FROM trails", "no such table: trails"),
        ("", "write a SELECT"),
        ("-- nothing", "write a SELECT"),
        ("SELECT ?", "[Ii]ncorrect number of bindings"),
        ("DELETE FROM runs", "a query may only read"),
        ("SELECT '\0'", "null character"),
    ],
)
def test_a_wrong_query_says_what_is_wrong(filled: Path, sql: str, message: str) -> None:
    """Mistakes become QueryError with SQLite's own words."""
    with pytest.raises(QueryError, match=message):
        read_only_query(filled, sql)


def test_a_negative_limit_is_refused(filled: Path) -> None:
    """A limit below zero is an error, not 'all rows'."""
    with pytest.raises(QueryError, match="limit -1"):
        read_only_query(filled, "SELECT 1", limit=-1)


@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA table_info(trials)",
        "PRAGMA table_list",
        "SELECT name FROM sqlite_schema",
        "WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c LIMIT 9) SELECT * FROM c",
        "EXPLAIN QUERY PLAN SELECT * FROM v_leaderboard",
        "SELECT json_extract(spec_json, '$.trial_id'), datetime(started_utc) FROM trials",
        "SELECT variant, AVG(p50_ms) OVER (PARTITION BY variant) FROM v_trials",
    ],
)
def test_what_only_reads_is_allowed(filled: Path, sql: str) -> None:
    """Looking at the schema, recursion, windows, JSON and dates all work."""
    assert read_only_query(filled, sql).rows


def test_ctrl_c_ends_a_long_query(filled: Path) -> None:
    """A query that would never end stops at Ctrl-C, as KeyboardInterrupt."""
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT MAX(x) FROM c"
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            read_only_query(filled, endless)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

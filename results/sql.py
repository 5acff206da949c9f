"""A user's own SQL over past runs, on SQLite's own terms read-only; needs no SQLAlchemy.

Three locks, any of which would do: the file is opened read-only, `query_only` is on, and an
authorizer allows nothing but reading (so no ATTACH, no PRAGMA that sets, no transaction).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from results.errors import QueryError, ResultsError
from results.sqlite_file import connect
from results.version import check_version

_READS: Final = frozenset(
    {
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
    }
)
_READING_PRAGMAS: Final = frozenset({"table_info", "table_xinfo", "table_list"})
_REFUSED_FUNCTIONS: Final = frozenset({"load_extension"})
_BUSY_TIMEOUT_MS: Final = 30_000
_PROGRESS_STEPS: Final = 100_000
"""Steps of SQLite's machine between two looks for Ctrl-C."""


@dataclass(frozen=True)
class QueryResult:
    """What a query answered. `truncated`: there were more rows than the limit."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool


def read_only_query(
    path: Path,
    sql: str,
    params: Sequence[object] | Mapping[str, object] = (),
    *,
    limit: int | None = None,
) -> QueryResult:
    """Run one SELECT on a SQLite database of results, which it cannot change.

    Raises QueryError when the SQL is wrong or tries to write, ResultsError or DatabaseTooNew
    when the database cannot be used.
    """
    if limit is not None and limit < 0:
        raise QueryError(f"limit {limit}: pass 0 or more, or none for all rows")
    with closing(_open(path)) as connection, _translated(sql):
        cursor = connection.execute(sql, params)
        if cursor.description is None:
            raise QueryError("the query answers nothing: write a SELECT")
        columns = tuple(column[0] for column in cursor.description)
        rows = cursor.fetchall() if limit is None else cursor.fetchmany(limit + 1)
        kept = rows if limit is None else rows[:limit]
        return QueryResult(columns, tuple(kept), len(rows) > len(kept))


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise ResultsError(f"{path}: no such database; --db names another")
    try:
        connection = connect(path, "ro", _BUSY_TIMEOUT_MS)
        try:
            query = "SELECT version, software_version FROM schema_info"
            check_version(connection.execute(query).fetchone(), str(path))
            connection.set_authorizer(_authorize)
            # A running query gives Python a turn now and then, so that Ctrl-C ends it.
            connection.set_progress_handler(lambda: 0, _PROGRESS_STEPS)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as exc:
        raise ResultsError(f"{path}: {exc}; it is no readable database of results") from exc
    return connection


def _authorize(
    action: int, first: str | None, second: str | None, _database: str | None, _by: str | None
) -> int:
    """Allow what reads; `first` and `second` are what SQLite says for each action."""
    if action == sqlite3.SQLITE_PRAGMA:
        return sqlite3.SQLITE_OK if first in _READING_PRAGMAS else sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and second in _REFUSED_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _READS else sqlite3.SQLITE_DENY


@contextmanager
def _translated(sql: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, sqlite3.Warning) as exc:
        reason = str(exc)
        if reason == "interrupted":
            raise KeyboardInterrupt from exc
        advice = "; a query may only read" if "not authorized" in reason else ""
        raise QueryError(f"{reason}{advice}: {sql.strip()[:500]}") from exc
    except (OverflowError, TypeError, ValueError, UnicodeError) as exc:
        raise QueryError(f"{exc}: {sql.strip()[:500]}") from exc

"""Opening a database: connections, settings, the version check, and errors in our words.

SQLite runs in WAL mode, so readers never wait for the writer, with `synchronous=FULL`: after
a commit the board is told that it may forget the trial, so a commit must survive a power
cut. That costs one fsync a trial, which is nothing beside measuring it. Transactions that
write begin IMMEDIATE: two writers then queue, instead of failing halfway.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    SQLAlchemyError,
)
from sqlalchemy.pool import QueuePool

from results.errors import RecordRefused, ResultsError
from results.rows import utc_text
from results.schema import Base, SchemaInfo
from results.sqlite_file import Mode, connect
from results.version import SCHEMA_VERSION, check_version, software_version
from results.views import VIEWS

BUSY_TIMEOUT_MS: Final = 30_000
"""How long a writer waits for another before it gives up."""
_RETRY_S: Final = 0.02
_PRIMARY_CODE: Final = 0xFF
"""The part of an extended SQLite error code that names its kind."""
WRITE: Final = "results_write"
"""Execution option of a transaction that will write."""


@dataclass(frozen=True)
class Opening:
    """How a database is opened."""

    create: bool
    read_only: bool
    busy_timeout_ms: int = BUSY_TIMEOUT_MS


def open_engine(location: str | Path, opening: Opening) -> tuple[Engine, str]:
    """An engine whose schema is of this version, and the location as one may print it.

    Raises DatabaseTooNew for a database of a newer version, ResultsError when it is missing,
    locked, unreadable, not ours, or older than anything this version reads.
    """
    engine, shown = _engine(location, opening)
    try:
        with translated(shown):
            _ensure_schema(engine, shown, opening)
    except BaseException:
        engine.dispose()
        raise
    return engine, shown


@contextmanager
def translated(shown: str) -> Iterator[None]:
    """Turn errors of SQLAlchemy and its drivers into ours, with the next action."""
    try:
        yield
    except IntegrityError as exc:
        raise RecordRefused(f"{shown}: {exc.orig}; nothing was stored") from exc
    except OverflowError as exc:
        raise RecordRefused(f"{shown}: a number exceeds 64 bits ({exc})") from exc
    except DatabaseError as exc:
        raise ResultsError(f"{shown}: {exc.orig}{_advice(str(exc.orig))}") from exc
    except (DBAPIError, SQLAlchemyError) as exc:
        raise ResultsError(f"{shown}: {exc}") from exc


def _advice(reason: str) -> str:
    for symptom, advice in (
        ("locked", "; another process is writing: wait for it, or end it"),
        ("full", "; nothing was stored: free some space and run again"),
        ("not a database", "; choose another file with --db"),
        ("malformed", "; restore a copy, or rescue rows with `sqlite3 FILE .recover`"),
        ("readonly", "; make the file and its directory writable, or choose another with --db"),
        ("unable to open", "; check the path and its permissions"),
    ):
        if symptom in reason:
            return advice
    return ""


def _engine(location: str | Path, opening: Opening) -> tuple[Engine, str]:
    if isinstance(location, str) and "://" in location:
        return _engine_of_url(location, opening)
    path = Path(location)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ResultsError(f"{path}: is a directory, or its directory does not exist")
    if not path.exists() and not opening.create:
        raise ResultsError(
            f"{path}: no such database; `orchestrator run` creates one, --db names another"
        )
    return _sqlite_engine(path, opening), str(path)


def _engine_of_url(text: str, opening: Opening) -> tuple[Engine, str]:
    try:
        url = make_url(text)
        if url.get_backend_name() == "sqlite":
            return _engine(Path(url.database or ""), opening)
        engine = create_engine(url)
    except (ArgumentError, NoSuchModuleError) as exc:
        raise ResultsError(f"database URL: {exc}; use a file or postgresql+psycopg://...") from exc
    except ImportError as exc:
        raise ResultsError(
            f"{url.render_as_string()}: {exc}; install its driver, for PostgreSQL: "
            "pip install 'psycopg[binary]'"
        ) from exc
    return engine, url.render_as_string(hide_password=True)


def _sqlite_engine(path: Path, opening: Opening) -> Engine:
    engine = create_engine("sqlite://", creator=_connector(path, opening), poolclass=QueuePool)

    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "begin", begin)
    return engine


def _connector(path: Path, opening: Opening) -> Callable[[], sqlite3.Connection]:
    mode: Mode = "ro" if opening.read_only else "rwc" if opening.create else "rw"

    def connector() -> sqlite3.Connection:
        connection = connect(path, mode, opening.busy_timeout_ms)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            if mode != "ro":
                _set_wal(connection, path, opening.busy_timeout_ms)
        except BaseException:
            connection.close()
            raise
        return connection

    return connector


def _set_wal(connection: sqlite3.Connection, path: Path, busy_timeout_ms: int) -> None:
    mode = _journal_mode(connection, time.monotonic() + busy_timeout_ms / 1000)
    if mode != "wal":
        raise ResultsError(
            f"{path}: this file system cannot do write-ahead logging (journal mode {mode}); "
            "put the database on a local disk"
        )
    connection.execute("PRAGMA synchronous = FULL")


def _journal_mode(connection: sqlite3.Connection, until_s: float) -> str:
    """Switch to WAL. SQLite's own busy timeout does not hold while another opener switches."""
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return str(mode)
        except sqlite3.OperationalError as exc:
            locked = exc.sqlite_errorcode & _PRIMARY_CODE == sqlite3.SQLITE_BUSY
            if not locked or time.monotonic() >= until_s:
                raise
            time.sleep(_RETRY_S)


def _ensure_schema(engine: Engine, shown: str, opening: Opening) -> None:
    with engine.connect().execution_options(**{WRITE: opening.create}) as connection:
        with connection.begin():
            tables = inspect(connection).get_table_names()
            if not tables and opening.create:
                create_schema(connection)
                return
            if SchemaInfo.__tablename__ not in tables:
                what = "holds other tables" if tables else "is empty"
                raise ResultsError(f"{shown}: {what}, it is no database of results")
            found = connection.execute(
                select(SchemaInfo.version, SchemaInfo.software_version)
            ).one_or_none()
        check_version(tuple(found) if found else None, shown)


def create_schema(connection: Connection) -> None:
    """Create tables and views, and note the version, in the caller's transaction."""
    Base.metadata.create_all(connection)
    for view in VIEWS:
        connection.execute(text(view.create_sql()))
    connection.execute(
        insert(SchemaInfo).values(
            id=1,
            version=SCHEMA_VERSION,
            software_version=software_version(),
            created_utc=utc_text(datetime.now(UTC)),
        )
    )

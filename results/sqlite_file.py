"""Connecting to a SQLite file; needs no SQLAlchemy."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Literal
from urllib.parse import quote

Mode = Literal["ro", "rw", "rwc"]
"""Read-only; read and write a file that exists; the same, creating it."""


def connect(path: Path, mode: Mode, busy_timeout_ms: int) -> sqlite3.Connection:
    """A connection without implicit transactions. Raises sqlite3.Error."""
    if mode == "ro":
        return _connect_read_only(path, busy_timeout_ms)
    return _connect(_uri(path, mode), busy_timeout_ms)


def _connect_read_only(path: Path, busy_timeout_ms: int) -> sqlite3.Connection:
    """Open with `query_only`.

    A WAL database needs side files, which cannot be made in a read-only directory. If no log
    was left there, the file itself is the whole database and nobody is writing: it is then
    read as it is.
    """
    connection = _connect(_uri(path, "ro"), busy_timeout_ms)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise
        connection = _connect(_uri(path, "ro") + "&immutable=1", busy_timeout_ms)
    except sqlite3.Error:
        connection.close()
        raise
    connection.execute("PRAGMA query_only = ON")
    return connection


def _uri(path: Path, mode: Mode) -> str:
    return f"file:{quote(str(path.absolute()))}?mode={mode}"


def _connect(uri: str, busy_timeout_ms: int) -> sqlite3.Connection:
    # SQLAlchemy's pool may hand a connection to another thread, one at a time.
    return sqlite3.connect(
        uri,
        uri=True,
        timeout=busy_timeout_ms / 1000,
        isolation_level=None,
        check_same_thread=False,
    )

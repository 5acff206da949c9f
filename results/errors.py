"""Errors of the store of results; each class has one stable exit code.

ResultsError (40)
├── DatabaseTooNew (41)
├── QueryError (42)
├── UnknownRun (43)
└── RecordRefused (44)
"""

from __future__ import annotations

from agent.wire import BenchError


class ResultsError(BenchError):
    """The database cannot be used: missing, locked, unreadable or not a database."""

    exit_code = 40


class DatabaseTooNew(ResultsError):
    """The database was written by a newer version of this software."""

    exit_code = 41


class QueryError(ResultsError):
    """A query is wrong, or tried to write."""

    exit_code = 42


class UnknownRun(ResultsError):
    """No such run, or not one that can be compared."""

    exit_code = 43


class RecordRefused(ResultsError):
    """A record contradicts itself, or would change one that is final."""

    exit_code = 44

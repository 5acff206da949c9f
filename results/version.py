"""The version of the schema, and the check that every opening makes; needs no SQLAlchemy."""

from __future__ import annotations

from importlib import metadata
from typing import Any, Final

from results.errors import DatabaseTooNew, ResultsError

SCHEMA_VERSION: Final = 3
"""Raised by one with every change of a table or view."""


def check_version(found: tuple[Any, ...] | None, shown: str) -> None:
    """Refuse a schema of another version; `found` is (version, software version)."""
    if found is None:
        raise ResultsError(f"{shown}: its schema version is missing; restore a copy")
    version, software = found
    if version > SCHEMA_VERSION:
        raise DatabaseTooNew(
            f"{shown}: has schema version {version}, written by version {software}; version "
            f"{software_version()} reads up to {SCHEMA_VERSION}: upgrade this software"
        )
    if version < SCHEMA_VERSION:
        raise ResultsError(
            f"{shown}: has schema version {version}, written by version {software}; version "
            f"{software_version()} needs {SCHEMA_VERSION}: choose another file with --db"
        )


def software_version() -> str:
    """Version of the installed package, or 'source' when it runs from a bare checkout."""
    try:
        return metadata.version("edge-orchestrator")
    except metadata.PackageNotFoundError:
        return "source"

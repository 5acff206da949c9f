"""The commands, one module each, and the options that several of them share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from orchestrator import workspace

_Command = TypeVar("_Command", bound=Callable[..., Any])


def inventory_option(function: _Command) -> _Command:
    """Adds the parameter `inventory: Path | None`."""
    return click.option(
        "--inventory",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The inventory; without it, the nearest inventory.yaml upward from here.",
    )(function)


def db_option(function: _Command) -> _Command:
    """Adds the parameter `db: str | None`: a path, or a URL that SQLAlchemy knows."""
    return click.option(
        "--db",
        metavar="FILE",
        help="The database; without it, results.sqlite beside the inventory.",
    )(function)


def database_location(db: str | None, inventory: Path | None) -> str | Path:
    """The database that `--db` names, as a URL or a path, or the one of the workspace.

    Raises InventoryError where neither is there.
    """
    if db is None:
        return workspace.find(Path.cwd(), inventory).database
    return db if "://" in db else Path(db).expanduser()


def database_file(db: str | None, inventory: Path | None) -> Path:
    """As `database_location`, for a command that reads SQLite's own files only."""
    location = database_location(db, inventory)
    if isinstance(location, str):
        raise click.BadParameter(
            f"'{location.partition('://')[0]}://...' is no file; ask that database with its own "
            "client, it has the same tables and views.",
            param_hint="'--db'",
        )
    return location

"""The commands, one module each, and the options that several of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from orchestrator import workspace

inventory_option: Final[Any] = click.option(
    "--inventory",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The inventory; without it, the nearest inventory.yaml upward from here.",
)
"""Adds the parameter `inventory: Path | None`."""

db_option: Final[Any] = click.option(
    "--db",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The database; without it, results.sqlite beside the inventory.",
)
"""Adds the parameter `db: Path | None`."""


def database_path(db: Path | None, inventory: Path | None) -> Path:
    """The database that a command reads: `--db`, or the one of the workspace.

    Raises InventoryError where neither is there.
    """
    return db.expanduser() if db is not None else workspace.find(Path.cwd(), inventory).database

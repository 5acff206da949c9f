"""The commands, one module each, and the options that several of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator import workspace

if TYPE_CHECKING:
    from results.queries import RunRow
    from results.store import Store

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


def find_run(store: Store, run_id: str | None) -> RunRow:
    """The run of that id, or the only one that begins so, or the latest; raises UnknownRun."""
    from orchestrator.errors import nearest  # noqa: PLC0415 - --help does without them
    from results.errors import UnknownRun  # noqa: PLC0415 - as above
    from results.queries import runs  # noqa: PLC0415 - as above

    found = runs(store)
    if not found:
        raise UnknownRun("no run is stored yet; `orchestrator run` makes one")
    if run_id is None:
        return found[0]
    exact = [run for run in found if run.run_id == run_id]
    matches = exact or [run for run in found if run.run_id.startswith(run_id)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UnknownRun(f"{len(matches)} runs begin with '{run_id}': {_some(matches)}")
    near = nearest(run_id, [run.run_id for run in found])
    guess = f"; did you mean '{near}'?" if near else ""
    raise UnknownRun(f"no run '{run_id}'{guess} (newest: {_some(found)})")


def _some(found: Sequence[RunRow]) -> str:
    ids = [run.run_id for run in found[:5]]
    return ", ".join(ids) + (", …" if len(found) > len(ids) else "")

"""`orchestrator runs`: the list of past runs, and one of them in full."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from orchestrator.commands import database_location, db_option, inventory_option
from orchestrator.text import printable

if TYPE_CHECKING:
    from results.queries import RunRow

LISTED: Final = 20


@click.group("runs", invoke_without_command=True)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=LISTED,
    show_default=True,
    metavar="N",
    help="Most runs to list, newest first.",
)
@db_option
@inventory_option
@click.pass_context
def command(ctx: click.Context, limit: int, db: str | None, inventory: Path | None) -> None:
    """List past runs, newest first; `runs show` shows one."""
    ctx.obj = database_location(db, inventory)
    if ctx.invoked_subcommand is None:
        _list(ctx.obj, limit)


@command.command("show")
@click.argument("run_id", metavar="[RUN]", required=False)
@click.pass_obj
def show(location: str | Path, run_id: str | None) -> None:
    """Show the final table of RUN, or of the latest run.

    RUN is a run's id, or the beginning of one as long as only one run begins so.
    """
    from orchestrator import final, tables  # noqa: PLC0415 - --help does without rich
    from orchestrator.past import baseline_of, find_run  # noqa: PLC0415 - sqlalchemy is slow
    from results.queries import leaderboard  # noqa: PLC0415 - sqlalchemy is slow
    from results.store import Store  # noqa: PLC0415 - as above

    with Store.open(location, create=False, read_only=True) as store:
        run = find_run(store, run_id)
        baseline = baseline_of(store, run.run_id)
        rows = leaderboard(store, run.run_id, baseline)
    for name, text in _facts(run):
        click.echo(f"{name:<10} {printable(text)}")
    click.echo()
    final.show(tables.console(), rows, baseline)


def _list(location: str | Path, limit: int) -> None:
    from orchestrator import tables  # noqa: PLC0415 - --help does without rich
    from results.queries import runs  # noqa: PLC0415 - sqlalchemy is slow
    from results.store import Store  # noqa: PLC0415 - as above

    with Store.open(location, create=False, read_only=True) as store:
        found = runs(store, limit=limit + 1)
    if not found:
        click.echo("No run is stored yet; `orchestrator run` makes one.", err=True)
        return
    columns = (
        tables.Column("run"),
        tables.Column("started UTC", spare=4),
        tables.Column("state"),
        tables.Column("experiment"),
        tables.Column("scale"),
        tables.Column("profile", spare=3),
        tables.Column("boards", spare=1),
        tables.Column("trials", figures=True, spare=2),
    )
    tables.show(tables.console(), columns, [_cells(run) for run in found[:limit]])
    if len(found) > limit:
        click.echo(f"There are more than these {limit} runs (--limit).", err=True)


def _cells(run: RunRow) -> list[str]:
    cells = [
        run.run_id,
        _minute(run.started_utc),
        run.state,
        run.experiment,
        run.scale or "-",
        run.profile,
        ", ".join(run.boards) or "-",
        _trials(run),
    ]
    return [printable(cell) for cell in cells]


def _facts(run: RunRow) -> list[tuple[str, str]]:
    scale = "" if run.scale is None else f"scale {run.scale}, "
    ended = "" if run.ended_utc is None else f" to {_minute(run.ended_utc)}"
    return [
        ("run", run.run_id),
        ("state", run.state),
        ("time", f"{_minute(run.started_utc)}{ended} UTC"),
        ("experiment", f"{run.experiment} ({scale}profile {run.profile}, seed {run.seed})"),
        ("boards", ", ".join(run.boards) or "-"),
        ("trials", f"{_trials(run)} finished"),
        ("software", run.software_version),
    ]


def _trials(run: RunRow) -> str:
    """Finished trials, of those that were started where some did not finish."""
    return str(run.finished) if run.finished == run.trials else f"{run.finished} of {run.trials}"


def _minute(moment: str) -> str:
    """`2026-01-31 12:05` of a stored time."""
    return moment[:16].replace("T", " ")

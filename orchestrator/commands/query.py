"""`orchestrator query`: SQL over past runs; the database cannot be changed by it."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from orchestrator.commands import database_file, db_option, inventory_option
from orchestrator.text import printable

if TYPE_CHECKING:
    from results.sql import QueryResult

TABLE_ROWS: Final = 1000
"""How many rows a table shows unless `--limit` says otherwise; csv and json have all."""


_EPILOG: Final = """\b
Examples:
  orchestrator query "SELECT board, variant, p50_ms, map50 FROM v_leaderboard"
  orchestrator query "SELECT variant, dice, iou FROM v_leaderboard"
"""


@click.command("query", epilog=_EPILOG)
@click.argument("sql")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="How the answer is written.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"Most rows; without it, {TABLE_ROWS} in a table and all in csv and json.",
)
@db_option
@inventory_option
def command(sql: str, form: str, limit: int | None, db: str | None, inventory: Path | None) -> None:
    """Run one SELECT over everything that was ever measured.

    SQL is the query, or - to read it from standard input. Good places to start are the views
    v_leaderboard (one row a variant, board and run) and v_trials (one row a trial).
    """
    from results.sql import read_only_query  # noqa: PLC0415 - --help does without it

    text = sys.stdin.read() if sql == "-" else sql
    if limit is None and form == "table":
        limit = TABLE_ROWS
    result = read_only_query(database_file(db, inventory), text, limit=limit)
    {"table": _write_table, "csv": _write_csv, "json": _write_json}[form](result)
    if result.truncated:
        click.echo(f"There are more than these {len(result.rows)} rows (--limit).", err=True)


def _write_table(result: QueryResult) -> None:
    from orchestrator import tables  # noqa: PLC0415 - csv and json do without rich

    tables.show_query(tables.console(), result.columns, result.rows)
    count = len(result.rows)
    click.echo(f"{count} {'row' if count == 1 else 'rows'}", err=True)


def _write_csv(result: QueryResult) -> None:
    """NULL is an empty field; bytes are hex. On a terminal, control characters are escaped."""
    safe = printable if sys.stdout.isatty() else str
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([safe(name) for name in result.columns])
    for row in result.rows:
        writer.writerow([safe(v) if isinstance(v, str) else _plain(v) for v in row])


def _write_json(result: QueryResult) -> None:
    """A list of objects, one a line. On a terminal, everything but ASCII is escaped."""
    from results.errors import QueryError  # noqa: PLC0415 - --help does without it

    twice = [name for name, count in Counter(result.columns).items() if count > 1]
    if twice:
        raise QueryError(f"two columns are called '{twice[0]}': rename one of them with AS")
    ascii_only = sys.stdout.isatty()
    lines = (
        json.dumps(
            dict(zip(result.columns, map(_plain, row), strict=True)), ensure_ascii=ascii_only
        )
        for row in result.rows
    )
    click.echo("[" + ",".join(f"\n  {line}" for line in lines) + "\n]")


def _plain(value: object) -> object:
    """A value that CSV and JSON can hold: bytes as hex, infinite figures as text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

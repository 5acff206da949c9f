"""`orchestrator boards list`: which boards there are, and with --probe how they stand."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from orchestrator.commands import database_location, db_option, inventory_option
from orchestrator.commands.boards import opened, where

if TYPE_CHECKING:
    from agent.wire import Hello
    from orchestrator.census import Answer
    from orchestrator.inventory import BoardEntry, Inventory
    from orchestrator.workspace import Workspace

LIMIT_S: Final = 20.0

_LAST_SEEN: Final = """
    SELECT b.name, b.hello_utc, f.board_model, f.cpu_model, f.isa
    FROM boards b JOIN fingerprints f ON f.fingerprint_sha256 = b.fingerprint_sha256
    WHERE b.hello_utc = (SELECT MAX(hello_utc) FROM boards WHERE name = b.name)"""


@click.command("list")
@click.option("--probe", is_flag=True, help="Contact all of them: reachable, ready, leased?")
@click.option(
    "--within",
    type=click.FloatRange(min=1),
    default=LIMIT_S,
    metavar="SECONDS",
    show_default=True,
    help="With --probe: give a board up that has not answered by then.",
)
@db_option
@inventory_option
def command(probe: bool, within: float, db: str | None, inventory: Path | None) -> None:
    """Show the boards of the inventory and when a run last saw them; nothing is contacted.

    With --probe all are contacted at once, and the agent is installed where it is missing.
    """
    from orchestrator import tables  # noqa: PLC0415 - keeps --help fast
    from orchestrator.tables import Column  # noqa: PLC0415 - keeps --help fast

    place, known = opened(inventory)
    seen = _last_seen(database_location(db, place.inventory))
    columns = [
        Column("board"),
        Column("registered"),
        Column("last seen UTC", spare=1),
        Column("reached at", spare=2 if probe else 0),
        Column("labels", spare=3),
        Column("what it was", spare=4),
        Column("python", spare=5),
    ]
    rows = [
        _row(entry, *seen.get(entry.name, (tables.NONE, tables.NONE)))
        for entry in known.boards.values()
    ]
    reasons: list[str] = []
    if probe:
        answers = _probe(place, known, within)
        columns[2:2] = [Column("reachable"), Column("ready"), Column("leased")]
        for row, answer in zip(rows, answers, strict=True):
            row[2:2] = standing(answer)
        reasons = [str(answer.error) for answer in answers if answer.error is not None]
    tables.show(tables.console(), columns, rows)
    for reason in reasons:
        click.echo(_one_line(reason))


def standing(answer: Answer[Hello]) -> list[str]:
    """Reachable, ready and leased, in words; '-' where the one before it is 'no'."""
    from orchestrator import errors, tables  # noqa: PLC0415 - keeps --help fast
    from orchestrator.text import printable  # noqa: PLC0415 - keeps --help fast

    if answer.value is not None:
        lease = answer.value.lease
        holder = "no" if lease is None else f"by {lease.holder} (run {lease.run_id})"
        return ["yes", "yes", printable(holder)]
    if isinstance(answer.error, errors.BoardUnreachable):
        return ["no", tables.NONE, tables.NONE]
    lacking = {
        errors.HostKeyRejected: "host key",
        errors.PackagesMissing: "packages",
        errors.ProtocolMismatch: "protocol",
        errors.AgentDied: "agent",
        errors.BoardDiskFull: "disk full",
    }
    found = next((words for kind, words in lacking.items() if isinstance(answer.error, kind)), None)
    return ["yes", f"no: {found}" if found else "no", tables.NONE]


def _probe(place: Workspace, known: Inventory, limit_s: float) -> list[Answer[Hello]]:
    from orchestrator import census  # noqa: PLC0415 - only with --probe
    from orchestrator.boards.registry import make_board  # noqa: PLC0415 - only with --probe

    boards = [make_board(entry, known, place) for entry in known.boards.values()]
    host = socket.gethostname()
    return census.ask(boards, lambda session: session.hello(host), limit_s=limit_s)


def _last_seen(location: str | Path) -> Mapping[str, tuple[str, str]]:
    """When a run last met each board, and what it was; empty where there is no database."""
    if isinstance(location, Path) and not location.exists():
        return {}
    from results.errors import ResultsError  # noqa: PLC0415 - sqlalchemy is slow
    from results.store import Store  # noqa: PLC0415 - as above

    try:
        with Store.open(location, create=False, read_only=True) as store:
            rows = store.rows(_LAST_SEEN)
    except ResultsError as exc:
        click.echo(f"'last seen' is left out: {_one_line(str(exc))}", err=True)
        return {}
    return {
        row["name"]: (
            row["hello_utc"][:16].replace("T", " "),
            row["board_model"] or row["cpu_model"] or row["isa"],
        )
        for row in rows
    }


def _row(entry: BoardEntry, seen: str, model: str) -> list[str]:
    from orchestrator import tables  # noqa: PLC0415 - keeps --help fast
    from orchestrator.text import printable  # noqa: PLC0415 - keeps --help fast

    return [
        entry.name,
        "virtual" if entry.lab else entry.kind,
        printable(seen),
        where(entry),
        ", ".join(entry.labels) or tables.NONE,
        printable(model),
        entry.python or "provisioned, else python3",
    ]


def _one_line(text: str) -> str:
    from orchestrator.text import printable  # noqa: PLC0415 - keeps --help fast

    return " ".join(printable(line) for line in text.splitlines())

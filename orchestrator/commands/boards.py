"""`orchestrator boards`: which boards there are, whether they answer, and their host keys."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.commands import inventory_option

if TYPE_CHECKING:
    from orchestrator.census import Answer
    from orchestrator.inventory import BoardEntry, Inventory
    from orchestrator.workspace import Workspace

_MEBIBYTE = 1 << 20


@click.group("boards")
def command() -> None:
    """List the boards of the inventory, check that they answer, trust a new one's host key."""


def _open(inventory: Path | None) -> tuple[Workspace, Inventory]:
    from orchestrator import inventory as inventories  # noqa: PLC0415 - keeps --help fast
    from orchestrator import workspace  # noqa: PLC0415 - keeps --help fast

    place = workspace.find(Path.cwd(), inventory)
    return place, inventories.load(place.inventory)


@command.command("list")
@inventory_option
def list_boards(inventory: Path | None) -> None:
    """Show the boards of the inventory; nothing is contacted."""
    from orchestrator import tables  # noqa: PLC0415 - keeps --help fast
    from orchestrator.tables import Column  # noqa: PLC0415 - keeps --help fast

    _, known = _open(inventory)
    rows = [
        [
            entry.name,
            entry.kind,
            _where(entry),
            ", ".join(entry.labels) or tables.NONE,
            entry.python,
        ]
        for entry in known.boards.values()
    ]
    columns = [Column("board"), Column("kind"), Column("reached at"), Column("labels")]
    tables.show(tables.console(), [*columns, Column("python", spare=1)], rows)


def _where(entry: BoardEntry) -> str:
    if entry.kind == "local":
        return "this machine"
    user = f"{entry.user}@" if entry.user else ""
    port = f":{entry.port}" if entry.port else ""
    return f"{user}{entry.target}{port}" + (f" through {entry.jump}" if entry.jump else "")


@command.command("check")
@click.argument("boards", default="all")
@inventory_option
def check(boards: str, inventory: Path | None) -> None:
    """Contact BOARDS (default: all) and show what each of them is.

    The agent is installed where it is missing. The exit code is that of the failures' class.
    """
    from orchestrator import census, tables  # noqa: PLC0415 - keeps --help fast
    from orchestrator import inventory as inventories  # noqa: PLC0415 - keeps --help fast
    from orchestrator.boards.registry import make_board  # noqa: PLC0415 - keeps --help fast
    from orchestrator.errors import RunIncomplete  # noqa: PLC0415 - keeps --help fast
    from orchestrator.tables import Column  # noqa: PLC0415 - keeps --help fast
    from orchestrator.text import printable  # noqa: PLC0415 - keeps --help fast

    place, known = _open(inventory)
    entries = inventories.select(known, boards)
    answers = census.ask(
        [make_board(entry, known, place) for entry in entries], socket.gethostname()
    )
    columns = [
        Column("board"),
        Column("state"),
        Column("what it is"),
        Column("instruction set", spare=1),
        Column("cores", figures=True),
        Column("free MiB", figures=True),
        Column("°C", figures=True),
        Column("Python", spare=3),
        Column("onnxruntime", spare=2),
    ]
    tables.show(tables.console(), columns, [_row(answer) for answer in answers])
    errors = [answer.error for answer in answers if answer.error is not None]
    for answer in answers:
        if answer.hello is not None and answer.hello.fingerprint.emulated:
            click.echo(f"{answer.board}: emulated; its times are no speeds")
    if errors:
        words = "\n".join(printable(str(error)) for error in errors)
        kinds = {type(error) for error in errors}
        raise (kinds.pop() if len(kinds) == 1 else RunIncomplete)(words)


def _row(answer: Answer) -> list[str]:
    from orchestrator.text import printable  # noqa: PLC0415 - keeps --help fast

    if answer.hello is None:
        return [answer.board, "FAILED", type(answer.error).__name__, *["-"] * 6]
    found, now = answer.hello.fingerprint, answer.hello.reading
    free = now.memory_available_bytes
    held = answer.hello.lease
    return [
        answer.board,
        "ready" if held is None else f"leased by {printable(held.holder)}",
        printable(found.board_model or found.cpu_model or found.machine),
        found.isa,
        str(found.cpu_count),
        "-" if free is None else str(free // _MEBIBYTE),
        "-" if now.temp_c is None else f"{now.temp_c:.1f}",
        printable(found.python),
        printable(found.packages.get("onnxruntime", "-")),
    ]


@command.command("trust")
@click.argument("board")
@click.option("--yes", is_flag=True, help="Record the key without asking.")
@inventory_option
def trust_board(board: str, yes: bool, inventory: Path | None) -> None:
    """Show the host key that BOARD offers and record it; ssh refuses any other from then on.

    Compare the fingerprint with the one the board itself shows:
    ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub
    """
    from orchestrator import inventory as inventories  # noqa: PLC0415 - keeps --help fast
    from orchestrator import trust  # noqa: PLC0415 - keeps --help fast
    from orchestrator.boards.registry import ssh_target  # noqa: PLC0415 - keeps --help fast
    from orchestrator.text import printable  # noqa: PLC0415 - keeps --help fast

    place, known = _open(inventory)
    (entry,) = inventories.select(known, board)
    if entry.kind == "local":
        raise click.UsageError(f"'{board}' is this machine; it has no host key to trust.")
    target = ssh_target(entry, known, place)
    key = trust.offered_key(target)
    before = trust.recorded_lines(target)
    if key.line in before:
        click.echo(f"{board}: {printable(key.fingerprint)} is recorded already")
        return
    click.echo(f"{board} ({entry.target}) offers {printable(key.fingerprint)}")
    if before:
        click.echo("ANOTHER KEY is recorded for it: a new card, another board, or an attack.")
    if yes or click.confirm("Is this the board's own key?"):
        trust.record(target, key)
        click.echo(f"recorded in {target.known_hosts}")
    else:
        raise click.Abort

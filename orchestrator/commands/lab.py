"""`orchestrator lab`: virtual boards, built and booted on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from orchestrator.commands import inventory_option

_EXAMPLE: Final = """\b
orchestrator lab up pi5-virtual pi3b-virtual
orchestrator run --boards pi5-virtual,pi3b-virtual
orchestrator lab down"""


@click.group("lab", epilog=_EXAMPLE)
def command() -> None:
    """Emulated 64-bit Arm boards on this machine, to try things without a Raspberry Pi.

    There are pi5-virtual (Cortex-A76) and pi3b-virtual (Cortex-A53); a second one of a kind is
    pi5-virtual-2. They prove that things work, never how fast: their results are marked
    'emulated' and stand in no ranking.
    """


@command.command("up")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--bare/--with-agent-packages",
    default=None,
    help="Without what the agent needs, as a new Raspberry Pi is.  [default: with; a board that "
    "exists stays as it is]",
)
@inventory_option
def start(names: tuple[str, ...], bare: bool | None, inventory: Path | None) -> None:
    """Build what is missing (once), start boards, wait until they can be used.

    QEMU needs no privileges; run as root, it gives them up (it becomes the user 'nobody').
    """
    from orchestrator import workspace  # noqa: PLC0415 - keeps --help fast
    from orchestrator.lab import control  # noqa: PLC0415 - keeps --help fast

    control.up(workspace.find(Path.cwd(), inventory), names, bare=bare, log=_say)


@command.command("status")
@inventory_option
def show_status(inventory: Path | None) -> None:
    """Show every virtual board of this workspace."""
    from orchestrator import tables, workspace  # noqa: PLC0415 - keeps --help fast
    from orchestrator.lab import control  # noqa: PLC0415 - keeps --help fast
    from orchestrator.tables import Column  # noqa: PLC0415 - keeps --help fast

    found = control.status(workspace.find(Path.cwd(), inventory))
    if not found:
        click.echo("no virtual boards; `orchestrator lab up pi5-virtual` makes one")
        return
    columns = [
        Column("board"), Column("state"), Column("core"), Column("packages"),
        Column("port", figures=True), Column("process", figures=True),
    ]  # fmt: skip
    rows = [
        [
            board.name, board.condition, board.core, "none (bare)" if board.bare else "agent's",
            str(board.port), tables.NONE if board.pid is None else str(board.pid),
        ]
        for board in found
    ]  # fmt: skip
    tables.show(tables.console(), columns, rows)


@command.command("down")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@inventory_option
def stop(names: tuple[str, ...], inventory: Path | None) -> None:
    """Switch boards off, all of them where none is named; what is on their disks stays."""
    from orchestrator import workspace  # noqa: PLC0415 - keeps --help fast
    from orchestrator.lab import control  # noqa: PLC0415 - keeps --help fast

    control.down(workspace.find(Path.cwd(), inventory), names, _say)


@command.command("console")
@click.argument("name")
@inventory_option
def open_console(name: str, inventory: Path | None) -> None:
    """Join this terminal to a board's serial console, a root shell; Ctrl-] leaves it.

    Without a terminal, print what the console has said so far.
    """
    from orchestrator import workspace  # noqa: PLC0415 - keeps --help fast
    from orchestrator.lab import console, control  # noqa: PLC0415 - keeps --help fast

    folder = control.board(workspace.find(Path.cwd(), inventory), name)
    if sys.stdin.isatty() and sys.stdout.isatty():
        click.echo(f"{name}; Ctrl-] leaves", err=True)
        console.attach(folder)
    else:
        click.echo(console.said(folder), nl=False)


@command.command("remove")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@inventory_option
def remove_boards(names: tuple[str, ...], inventory: Path | None) -> None:
    """Delete boards with their disks; without a NAME, everything that the lab has made here."""
    from orchestrator import workspace  # noqa: PLC0415 - keeps --help fast
    from orchestrator.lab import control  # noqa: PLC0415 - keeps --help fast

    control.remove(workspace.find(Path.cwd(), inventory), names, _say)


def _say(line: str) -> None:
    click.echo(line, err=True)

"""`orchestrator boards remove`: leaves nothing of ours on a board."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.commands import inventory_option
from orchestrator.commands.boards import opened

if TYPE_CHECKING:
    from orchestrator.boards.shell import Shell
    from orchestrator.inventory import BoardEntry, Inventory
    from orchestrator.workspace import Workspace

_MEBIBYTE = 1 << 20


@click.command("remove")
@click.argument("board")
@click.option("--yes", is_flag=True, help="Remove without asking.")
@click.option(
    "--force",
    is_flag=True,
    help="Remove although a run uses the board or measured trials would be lost.",
)
@inventory_option
def command(board: str, yes: bool, force: bool, inventory: Path | None) -> None:
    """Stop the agent on BOARD and remove its home: packages, models, journals, everything.

    The host key stays recorded here, and your own key stays in the board's authorized_keys.
    """
    from orchestrator import inventory as inventories  # noqa: PLC0415 - keeps --help fast
    from orchestrator.provision import removal  # noqa: PLC0415 - keeps --help fast
    from orchestrator.text import printable  # noqa: PLC0415 - keeps --help fast

    place, known = opened(inventory)
    (entry,) = inventories.select(known, board)
    with _shell(entry, known, place) as shell:
        found = removal.look(shell, entry.home)
        if found is None:
            click.echo(f"{board}: there is no {entry.home}; nothing to remove")
            return
        if not (force and found.ours):
            removal.refuse_loss(found, board)
        click.echo(f"{board}: {printable(found.path)}, {found.size_bytes // _MEBIBYTE} MiB")
        if not yes and not click.confirm(f"Stop the agent on {board} and remove all of this?"):
            raise click.Abort
        removal.remove(
            shell, board, found, lambda text: click.echo(f"{board}: {printable(text)}"),
            lock=entry.lock, force=force,
        )  # fmt: skip


@contextmanager
def _shell(entry: BoardEntry, known: Inventory, place: Workspace) -> Iterator[Shell]:
    """Where the board's commands run: here for a local board, else behind ssh."""
    from orchestrator.boards.registry import ssh_target  # noqa: PLC0415 - keeps --help fast
    from orchestrator.boards.remote import open_remote  # noqa: PLC0415 - paramiko is slow
    from orchestrator.boards.shell import LocalShell  # noqa: PLC0415 - as above

    if entry.kind == "local":
        yield LocalShell(entry.name)
        return
    with open_remote(ssh_target(entry, known, place)) as remote:
        yield remote

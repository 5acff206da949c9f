"""`orchestrator boards trust`: a board's host key, shown and recorded."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.commands import inventory_option
from orchestrator.commands.boards import opened


@click.command("trust")
@click.argument("board")
@click.option("--yes", is_flag=True, help="Record the key without asking.")
@inventory_option
def command(board: str, yes: bool, inventory: Path | None) -> None:
    """Show the host key that BOARD offers and record it; ssh refuses any other from then on.

    Compare the fingerprint with the one the board itself shows:
    ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub
    """
    from orchestrator import inventory as inventories  # noqa: PLC0415 - keeps --help fast
    from orchestrator import trust  # noqa: PLC0415 - keeps --help fast
    from orchestrator.boards.registry import ssh_target  # noqa: PLC0415 - keeps --help fast
    from orchestrator.text import printable  # noqa: PLC0415 - keeps --help fast

    place, known = opened(inventory)
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

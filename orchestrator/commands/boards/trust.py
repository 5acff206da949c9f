"""`orchestrator boards trust`: a board's host key, and on request the way in with one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.commands import inventory_option
from orchestrator.commands.boards import opened

if TYPE_CHECKING:
    from orchestrator.boards.sshcommand import SshTarget


@click.command("trust")
@click.argument("board")
@click.option("--yes", is_flag=True, help="Record the key without asking.")
@click.option(
    "--copy-key",
    is_flag=True,
    help="Then put your public key on the board; asks for the board's password once.",
)
@inventory_option
def command(board: str, yes: bool, copy_key: bool, inventory: Path | None) -> None:
    """Show the host key that BOARD offers and record it; ssh refuses any other from then on.

    Compare the fingerprint with the one the board itself shows:
    ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub
    """
    from orchestrator import inventory as inventories  # noqa: PLC0415 - keeps --help fast
    from orchestrator.boards.registry import ssh_target  # noqa: PLC0415 - keeps --help fast

    place, known = opened(inventory)
    entries = inventories.select(known, board)
    if len(entries) > 1:
        raise click.UsageError(f"'{board}' names {len(entries)} boards; trust one at a time.")
    (entry,) = entries
    if entry.kind == "local":
        raise click.UsageError(f"'{board}' is this machine; it has no host key to trust.")
    target = ssh_target(entry, known, place)
    _record(target, yes)
    if copy_key:
        _copy(target)


def _record(target: SshTarget, yes: bool) -> None:
    from orchestrator import clones, trust  # noqa: PLC0415 - keeps --help fast
    from orchestrator.text import printable  # noqa: PLC0415 - keeps --help fast

    key = trust.offered_key(target)
    before = trust.recorded_lines(target)
    if key.line in before:
        click.echo(f"{target.name}: {printable(key.fingerprint)} is recorded already")
        return
    click.echo(f"{target.name} ({target.address}) offers {printable(key.fingerprint)}")
    if before:
        click.echo("ANOTHER KEY is recorded for it: a new card, another board, or an attack.")
    if not (yes or click.confirm("Is this the board's own key?")):
        raise click.Abort
    trust.record(target, key)
    click.echo(f"recorded in {target.known_hosts}")
    for warning in clones.warnings(trust.identities(target.known_hosts)):
        click.echo(f"WARNING: {printable(warning)}")


def _copy(target: SshTarget) -> None:
    from orchestrator import keycopy  # noqa: PLC0415 - paramiko is slow
    from orchestrator.text import printable  # noqa: PLC0415 - keeps --help fast

    if keycopy.login_problem(target) is None:
        click.echo(f"{target.name}: your key opens it already; nothing was copied")
        return
    key = keycopy.public_key(target)
    who = f"{target.user}@{target.name}" if target.user else target.name
    password = click.prompt(f"Password of {who} (used once, kept nowhere)", hide_input=True)
    keycopy.copy_key(target, key, password)
    click.echo(f"{target.name}: {printable(key.split()[-1])} opens it from now on")

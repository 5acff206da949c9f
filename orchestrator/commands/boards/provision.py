"""`orchestrator boards provision`: from a bare ssh login to a board that measures."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.commands import inventory_option
from orchestrator.commands.boards import fail_together, opened

if TYPE_CHECKING:
    from orchestrator.inventory import BoardEntry


@click.command("provision")
@click.argument("boards", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--wheels",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Take the wheels from this folder; no package index is asked.",
)
@click.option(
    "--service", is_flag=True, help="Install a systemd user unit; else the agent starts on demand."
)
@click.option(
    "--runtime",
    "runtimes",
    metavar="NAMES",
    help="Put these there as well: torch, litert, both with a comma, or none. Default: as it is.",
)
@inventory_option
def command(
    boards: tuple[str, ...],
    wheels: Path | None,
    service: bool,
    runtimes: str | None,
    inventory: Path | None,
) -> None:
    """Make bare boards ones that measure: 64-bit Raspberry Pi OS, bookworm or newer.

    The board needs an ssh login and nothing else: no root, no internet, no pip. This host fetches
    the packages of agent/requirements.lock for the board's own Python and pushes them into the
    board's `home:`. A second call moves nothing; an interrupted one goes on where it ended.

    torch (148 MiB to push, 690 on the card) and litert (15 and 51) run what the recipes of the
    same names make. Their sizes are said, and compared with the free space, before anything moves.
    """
    from orchestrator import clones  # noqa: PLC0415 - keeps --help fast
    from orchestrator import inventory as inventories  # noqa: PLC0415 - keeps --help fast
    from orchestrator.boards.registry import agent_options, ssh_target  # noqa: PLC0415 - as above
    from orchestrator.provision.campaign import Job, provision  # noqa: PLC0415 - as above
    from orchestrator.provision.install import Wish  # noqa: PLC0415 - as above
    from orchestrator.provision.larder import Larder  # noqa: PLC0415 - as above
    from orchestrator.provision.lock import extras_of, shipped_pins  # noqa: PLC0415 - as above
    from orchestrator.text import printable  # noqa: PLC0415 - as above

    extras = None if runtimes is None else extras_of("" if runtimes == "none" else runtimes)
    place, known = opened(inventory)
    entries = inventories.select(known, ",".join(boards))
    for entry in entries:
        _refuse_useless(entry)
    jobs = [
        Job(
            target=ssh_target(entry, known, place),
            home=entry.home,
            wish=Wish(entry.name, service, agent_options(entry), extras),
        )
        for entry in entries
    ]
    mutex = threading.Lock()

    def say(board: str, text: str) -> None:
        with mutex:
            click.echo(f"{board}: {printable(text)}")

    larder = Larder(place.wheels, shipped_pins(), offline=wheels)
    outcomes = provision(jobs, larder, say)
    for warning in clones.warnings([one.identity for one in outcomes if one.identity]):
        click.echo(f"WARNING: {printable(warning)}")
    fail_together([one.error for one in outcomes if one.error is not None])


def _refuse_useless(entry: BoardEntry) -> None:
    """Raises UsageError for a board that would never use what is put there."""
    if entry.kind == "local":
        raise click.UsageError(
            f"'{entry.name}' is this machine: its agent runs with this program's own Python, and "
            f"there is nothing to provision."
        )
    if entry.python is not None:
        raise click.UsageError(
            f"'{entry.name}' has `python: {entry.python}` in the inventory, which always wins, so "
            f"what is provisioned would never be used. Remove that line first."
        )

"""`orchestrator boards check`: whether boards can be trusted now."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import click

from orchestrator.commands import inventory_option
from orchestrator.commands.boards import fail_together, opened

LIMIT_S = 240.0
"""Longest wait for one board: its agent may have to be put there and started first."""


@click.command("check")
@click.argument("boards", default="all")
@click.option("--verbose", is_flag=True, help="Show every check, also those that found no fault.")
@click.option("--json", "as_json", is_flag=True, help="Print all findings as JSON.")
@click.option(
    "--within",
    type=click.FloatRange(min=1),
    default=LIMIT_S,
    metavar="SECONDS",
    show_default=True,
    help="Give a board up that has not answered by then.",
)
@inventory_option
def command(
    boards: str, verbose: bool, as_json: bool, within: float, inventory: Path | None
) -> None:
    """Have BOARDS (default: all) examine themselves, and show what disturbs a measurement.

    The agent is installed where it is missing. Boards with warnings are ready; a board that is
    not fit ends the command with code 53, one that does not answer with the code of its error.
    """
    from orchestrator import census, checkup, clones, tables, trust  # noqa: PLC0415 - keeps --help fast
    from orchestrator import inventory as inventories  # noqa: PLC0415 - keeps --help fast
    from orchestrator.boards.registry import make_board  # noqa: PLC0415 - keeps --help fast
    from orchestrator.clock import SystemClock  # noqa: PLC0415 - keeps --help fast
    from orchestrator.text import printable  # noqa: PLC0415 - keeps --help fast

    place, known = opened(inventory)
    entries = inventories.select(known, boards)
    answers = census.ask(
        [make_board(entry, known, place) for entry in entries],
        lambda session: checkup.examine(session, socket.gethostname(), SystemClock()),
        limit_s=within,
    )
    local = [entry.name for entry in entries if entry.kind == "local"]
    who = checkup.identities(answers, trust.identities(place.known_hosts), local)
    warnings = clones.warnings(who)
    if as_json:
        click.echo(json.dumps(checkup.as_json(answers, warnings), indent=2))
    else:
        from orchestrator import checkscreen  # noqa: PLC0415 - JSON does without it

        checkscreen.show(tables.console(), answers, verbose=verbose)
        for warning in warnings:
            click.echo(f"WARNING: {printable(warning)}")
    fail_together(checkup.unfit(answers))

"""`orchestrator boards list`: which boards there are."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.commands import inventory_option
from orchestrator.commands.boards import opened, where


@click.command("list")
@inventory_option
def command(inventory: Path | None) -> None:
    """Show the boards of the inventory; nothing is contacted."""
    from orchestrator import tables  # noqa: PLC0415 - keeps --help fast
    from orchestrator.tables import Column  # noqa: PLC0415 - keeps --help fast

    _, known = opened(inventory)
    rows = [
        [
            entry.name,
            entry.kind,
            where(entry),
            ", ".join(entry.labels) or tables.NONE,
            entry.python or "provisioned, else python3",
        ]
        for entry in known.boards.values()
    ]
    columns = [Column("board"), Column("kind"), Column("reached at"), Column("labels")]
    tables.show(tables.console(), [*columns, Column("python", spare=1)], rows)

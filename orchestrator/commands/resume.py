"""`orchestrator resume`: go on with a run that was cut short."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.commands import database_location, db_option, inventory_option


@click.command("resume")
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--boards", metavar="LIST", help="Only these of the run's boards.")
@click.option("--json", "as_json", is_flag=True, help="The final table as JSON on stdout.")
@click.option("--plain", is_flag=True, help="Plain lines instead of the live screen.")
@db_option
@inventory_option
def command(
    run_id: str | None,
    boards: str | None,
    as_json: bool,
    plain: bool,
    db: str | None,
    inventory: Path | None,
) -> None:
    """Complete RUN, or the latest run: measure what is missing, nothing twice.

    Journals that are still on the boards are stored first. RUN is a run's id or its beginning.
    """
    from orchestrator import invocation  # noqa: PLC0415 - keeps --help fast

    location = database_location(db, inventory)
    asked = invocation.recall(run_id, boards, location, inventory)
    invocation.measure(asked, as_json=as_json, plain=plain).raise_if_incomplete()

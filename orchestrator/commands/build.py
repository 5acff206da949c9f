"""`orchestrator build`: the artifacts of an experiment, without measuring anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from orchestrator.commands import database_location, db_option, inventory_option
from orchestrator.commands.options import experiment_options, listed, refuse_mixture


@click.command("build")
@experiment_options
@click.option("--boards", metavar="LIST", help="Build for what these boards were last seen to be.")
@click.option("--isa", metavar="A,B", help="Build for aarch64, aarch64-dotprod, x86_64 ...")
@click.option("--score", is_flag=True, help="Score each artifact on the whole data set, here.")
@click.option("--explain", is_flag=True, help="Show parameters, FLOPs, sections and operators.")
@click.option(
    "--json", "as_json", is_flag=True, help="All that --explain shows, as JSON on stdout."
)
@db_option
@inventory_option
def command(
    experiment: str | None,
    boards: str | None,
    isa: str | None,
    score: bool,
    explain: bool,
    as_json: bool,
    db: str | None,
    inventory: Path | None,
    **given: Any,
) -> None:
    """Build every variant of an experiment and show what came out.

    Without --boards and --isa the artifacts are for this machine. `--score` runs the whole data
    set through each artifact here and stores the accuracy; boards only ever score a subset.
    `--explain` counts what is in each file; nothing is run for it.
    """
    from orchestrator import building, invocation  # noqa: PLC0415 - keeps --help fast

    refuse_mixture(experiment, given)
    location = database_location(db, inventory)
    options = {**given, "seed": 0, "threads": None}
    asked = invocation.resolve(boards, experiment, location, inventory, options)
    building.build(asked, listed(isa), score=score, explained=explain, as_json=as_json)

"""`orchestrator run`: the main job, and `--dry-run`, which only says what it would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from orchestrator.commands import database_location, db_option, inventory_option
from orchestrator.commands.options import experiment_options, refuse_mixture

MAX_SEED = (1 << 63) - 1
"""What a database's integer holds; a random generator takes none below 0."""

_EXAMPLES = """\b
Examples:
  orchestrator run --boards local
  orchestrator run demo --boards pi5,pi3b --profile normal
  orchestrator run --boards pi5 --model my.onnx --recipes fp32,int8_ptq --data VOC2007
"""


@click.command("run", epilog=_EXAMPLES)
@click.option("--boards", required=True, metavar="LIST", help="pi5,pi3b or label:NAME or all.")
@click.option("--dry-run", is_flag=True, help="Show every trial and the time needed; do nothing.")
@experiment_options
@click.option("--threads", type=click.IntRange(1, 1024), help="Inference threads.  [default: all]")
@click.option(
    "--seed",
    type=click.IntRange(0, MAX_SEED),
    help="Order of the trials.  [default: drawn, and stored]",
)
@click.option("--json", "as_json", is_flag=True, help="The final table as JSON on stdout.")
@click.option("--plain", is_flag=True, help="Plain lines instead of the live screen.")
@db_option
@inventory_option
def command(
    experiment: str | None,
    boards: str,
    dry_run: bool,
    as_json: bool,
    plain: bool,
    db: str | None,
    inventory: Path | None,
    **given: Any,
) -> None:
    """Build the variants of an experiment, measure them on boards, store and show the figures.

    EXPERIMENT is the name of a shipped one (demo) or a YAML file; without it, the inventory's
    `default_experiment`, else demo.
    """
    from orchestrator import invocation  # noqa: PLC0415 - keeps --help fast

    refuse_mixture(experiment, given)
    location = database_location(db, inventory)
    asked = invocation.resolve(boards, experiment, location, inventory, given)
    if dry_run:
        invocation.show_plan(asked)
        return
    invocation.measure(asked, as_json=as_json, plain=plain).raise_if_incomplete()

"""`orchestrator run`: the main job, and `--dry-run`, which only says what it would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from orchestrator.commands import database_location, db_option, inventory_option


class _Shape(click.ParamType):  # type: ignore[type-arg] # generic in click 8.5 only
    """NAME=1,3,224,224."""

    name = "NAME=DIMS"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        """Name and dimensions of an input."""
        name, equals, dims = str(value).rpartition("=")
        parts = dims.split(",")
        if not equals or not name or not all(p.isdigit() and int(p) > 0 for p in parts):
            self.fail(f"expected NAME=1,3,224,224, got '{value}'", param, ctx)
        return name, tuple(int(part) for part in parts)


@click.command("run")
@click.argument("experiment", required=False)
@click.option("--boards", required=True, metavar="LIST", help="pi5,pi3b or label:lab or all.")
@click.option("--dry-run", is_flag=True, help="Show every trial and the time needed; do nothing.")
@click.option("--profile", metavar="NAME", help="smoke, quick or normal, for the experiment's own.")
@click.option("--model", metavar="PATH|NAME", help="An experiment of this model alone.")
@click.option("--recipes", metavar="A,B", help="With --model: its recipes.  [default: fp32]")
@click.option("--data", metavar="DIR", help="With --model: labelled images (VOC, COCO or YOLO).")
@click.option("--calibration", metavar="DIR", help="With --model: images or .npy for INT8 ranges.")
@click.option("--shape", "shapes", type=_Shape(), multiple=True, help="Fix a dynamic input.")
@click.option("--imgsz", type=click.IntRange(32, 4096), help="With --model: square size in pixels.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Inference threads.  [default: all]")
@click.option("--seed", type=int, help="Order of the trials.  [default: drawn, and stored]")
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
    inventory: Path | None,
    **given: Any,
) -> None:
    """Build the variants of an experiment, measure them on boards, store and show the figures.

    EXPERIMENT is the name of a shipped one (demo) or a YAML file; without it, the inventory's
    `default_experiment`, else demo.
    """
    from orchestrator import invocation  # noqa: PLC0415 - keeps --help fast

    _refuse_mixture(experiment, given)
    location = database_location(given.pop("db"), inventory)
    asked = invocation.resolve(boards, experiment, location, inventory, given)
    if dry_run:
        invocation.show_plan(asked)
        return
    invocation.measure(asked, as_json=as_json, plain=plain).raise_if_incomplete()


def _refuse_mixture(experiment: str | None, given: dict[str, Any]) -> None:
    """An experiment brings its own models and data."""
    if given["model"] is not None:
        if experiment is not None:
            raise click.UsageError("EXPERIMENT and --model exclude each other.")
        return
    for name in ("recipes", "data", "calibration", "shapes", "imgsz"):
        if given[name]:
            raise click.UsageError(f"--{name.removesuffix('s')} goes with --model.")

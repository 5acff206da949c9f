"""`orchestrator report`: a run as a page, beside the published study that it repeats."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from orchestrator.commands import database_location, db_option, inventory_option

MOST_IMAGES: Final = 12
_EPILOG = """\b
Examples:
  orchestrator report
  orchestrator report 20261122 --out voc.md
  orchestrator report --out voc.md --images 5
"""


@click.command("report", epilog=_EPILOG)
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="A file.  [default: stdout]"
)
@click.option(
    "--images",
    type=click.IntRange(1, MOST_IMAGES),
    metavar="N",
    help="With --out: also draw what each ONNX file finds in N of the scored images, here.",
)
@db_option
@inventory_option
def command(
    run_id: str | None,
    out: Path | None,
    images: int | None,
    db: str | None,
    inventory: Path | None,
) -> None:
    """Write RUN, or the latest run, as Markdown.

    A run of a published study comes with the published figures, the ratios side by side, and
    which findings repeat. Learning curves are drawn beside the file, and with --images what was
    found in some images, beside the truth.
    """
    from orchestrator import workspace  # noqa: PLC0415 - as below
    from orchestrator.past import find_run  # noqa: PLC0415 - sqlalchemy is slow
    from orchestrator.studies import writing  # noqa: PLC0415 - as above
    from results.store import Store  # noqa: PLC0415 - as above

    if images is not None and out is None:
        raise click.UsageError("--images goes with --out.")
    place = None if images is None else workspace.find(Path.cwd(), inventory)
    with Store.open(database_location(db, inventory), create=False, read_only=True) as store:
        run = find_run(store, run_id)
        if out is None:
            click.echo(writing.text(store, run.run_id), nl=False)
            return
        try:
            written = writing.write(store, run.run_id, out, place, images or 0)
        except OSError as exc:
            raise click.BadParameter(f"{out}: {exc.strerror}", param_hint="--out") from exc
    for path in written:
        click.echo(f"wrote {path}", err=True)

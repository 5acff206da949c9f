"""`orchestrator report`: a run as a page, beside the published study that it repeats."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.commands import database_location, db_option, inventory_option

_EPILOG = """\b
Examples:
  orchestrator report
  orchestrator report 20261122 --out voc.md
"""


@click.command("report", epilog=_EPILOG)
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="A file.  [default: stdout]"
)
@db_option
@inventory_option
def command(run_id: str | None, out: Path | None, db: str | None, inventory: Path | None) -> None:
    """Write RUN, or the latest run, as Markdown.

    A run of a published study comes with the published figures, the ratios side by side, and
    which findings repeat. Learning curves are drawn beside the file.
    """
    from orchestrator.past import find_run  # noqa: PLC0415 - sqlalchemy is slow
    from orchestrator.studies import writing  # noqa: PLC0415 - as above
    from results.store import Store  # noqa: PLC0415 - as above

    with Store.open(database_location(db, inventory), create=False, read_only=True) as store:
        run = find_run(store, run_id)
        if out is None:
            click.echo(writing.text(store, run.run_id), nl=False)
            return
        try:
            written = writing.write(store, run.run_id, out)
        except OSError as exc:
            raise click.BadParameter(f"{out}: {exc.strerror}", param_hint="--out") from exc
    for path in written:
        click.echo(f"wrote {path}", err=True)

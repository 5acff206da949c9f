"""`orchestrator compare`: effects with their intervals, or why nobody can say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from orchestrator.commands import database_location, db_option, inventory_option
from orchestrator.text import printable

if TYPE_CHECKING:
    from results.compare import Verdict
    from results.queries import LeaderboardRow
    from results.sides import Selector
    from results.store import Store

_EPILOG = """\b
Examples:
  orchestrator compare
  orchestrator compare --run 20260131 --baseline ort_format
  orchestrator compare variant=int8_ptq variant=fp32
  orchestrator compare run=R1,variant=fp32 run=R2,variant=fp32
  orchestrator compare board=pi5,variant=fp32 board=pi3b,variant=fp32 \\
      --across threads
"""


FIGURES: Final = {"map50": "mAP50", "map50_95": "mAP50-95", "dice": "Dice", "iou": "IoU"}
"""Headers by the names of the differences."""
_SHOWN: Final = ("map50", "map50_95", "dice")


@dataclass(frozen=True)
class Compared:
    """One group of trials against the baseline; `verdict` is None where there is none."""

    row: LeaderboardRow
    verdict: Verdict | None
    problem: str


@click.command("compare", epilog=_EPILOG)
@click.argument("sides", nargs=-1, metavar="[A B]")
@click.option("--baseline", metavar="VARIANT", help="Without A and B.  [default: the run's own]")
@click.option("--run", "run_id", metavar="RUN", help="Without it, the latest run.")
@click.option("--board", metavar="BOARD", help="Without A and B: only this board.")
@click.option(
    "--across",
    multiple=True,
    metavar="NAME",
    help="What is meant to differ: model, scenario, threads, options, inputs, runtime_version.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the verdicts as JSON.")
@db_option
@inventory_option
def command(
    sides: tuple[str, ...],
    baseline: str | None,
    run_id: str | None,
    board: str | None,
    across: tuple[str, ...],
    as_json: bool,
    db: str | None,
    inventory: Path | None,
) -> None:
    """Compare variants, boards or runs; says when one cannot.

    Without A and B, every variant of a run is compared with the baseline on the same board.
    A and B are conditions such as board=pi5,variant=int8_ptq that fit one group of trials
    each; known are run, board, model, variant, isa, scenario and threads.
    """
    from results.store import Store  # noqa: PLC0415 - sqlalchemy is slow

    if len(sides) not in (0, 2):
        raise click.UsageError(f"Give both A and B or neither; got {len(sides)}.")
    with Store.open(database_location(db, inventory), create=False, read_only=True) as store:
        if sides:
            _compare_two(store, sides, run_id, across, as_json=as_json)
        else:
            _compare_all(store, run_id, baseline, board, across, as_json=as_json)


def _compare_two(
    store: Store, sides: Sequence[str], run_id: str | None, across: Sequence[str], *, as_json: bool
) -> None:
    from results.compare import compare  # noqa: PLC0415 - --help does without numpy
    from results.sides import Selector  # noqa: PLC0415 - as above

    a, b = (_of_run(store, Selector.parse(side), run_id) for side in sides)
    verdict = compare(store, a, b, across=across)
    if as_json:
        click.echo(json.dumps(verdict.as_dict(), indent=2))
        return
    for line in verdict.text.splitlines():
        click.echo(printable(line))


def _of_run(store: Store, selector: Selector, run_id: str | None) -> Selector:
    """The selector with its run in full: its own, else that of `--run`."""
    from orchestrator.past import find_run  # noqa: PLC0415 - sqlalchemy is slow

    return replace(selector, run=find_run(store, selector.run or run_id).run_id)


def _compare_all(
    store: Store,
    run_id: str | None,
    baseline: str | None,
    board: str | None,
    across: Sequence[str],
    *,
    as_json: bool,
) -> None:
    from orchestrator.past import baseline_of, find_run  # noqa: PLC0415 - sqlalchemy is slow

    run = find_run(store, run_id).run_id
    baseline = baseline or baseline_of(store, run)
    compared = list(_against_baseline(store, run, baseline, board, across))
    if as_json:
        verdicts = [one.verdict.as_dict() for one in compared if one.verdict is not None]
        click.echo(json.dumps(verdicts, indent=2))
        return
    if compared:
        _show(run, baseline, compared)
    else:
        click.echo(f"run {printable(run)} has no variant to compare with {printable(baseline)}")


def _against_baseline(
    store: Store, run: str, baseline: str, board: str | None, across: Sequence[str]
) -> Iterator[Compared]:
    """Every group of the run but the baseline's own, in the order of the final table."""
    from orchestrator.errors import unknown_name  # noqa: PLC0415 - --help does without it
    from results.compare import compare  # noqa: PLC0415 - sqlalchemy is slow
    from results.errors import UnknownRun  # noqa: PLC0415 - as above
    from results.queries import leaderboard  # noqa: PLC0415 - as above

    rows = leaderboard(store, run)
    for what, name, known in (
        ("variant", baseline, {row.variant for row in rows}),
        ("board", board, {row.board for row in rows}),
    ):
        if name is not None and name not in known:
            raise unknown_name(f"{what} in run {run} called", name, known)
    measured = {_where(row) for row in rows if row.variant == baseline and row.trials}
    for row in rows:
        if row.variant == baseline or board not in (None, row.board):
            continue
        if not row.trials:
            yield Compared(row, None, "no trial finished")
        elif _where(row) not in measured:
            yield Compared(row, None, f"no trial of {baseline} finished beside it")
        else:
            selectors = (_selector(run, row, row.variant), _selector(run, row, baseline))
            try:
                yield Compared(row, compare(store, *selectors, across=across), "")
            except UnknownRun as exc:
                yield Compared(row, None, str(exc))


def _where(row: LeaderboardRow) -> tuple[str, str, str, int]:
    return (row.board, row.model, row.scenario, row.threads)


def _selector(run: str, row: LeaderboardRow, variant: str) -> Selector:
    from results.sides import Selector  # noqa: PLC0415 - sqlalchemy is slow

    return Selector(run, row.board, row.model, variant, row.isa, row.scenario, row.threads)


def _show(run: str, baseline: str, compared: Sequence[Compared]) -> None:
    from orchestrator import tables  # noqa: PLC0415 - --help does without rich

    figures, ranges = _accuracy_columns(compared)
    columns = (
        tables.Column("board"),
        tables.Column("variant"),
        tables.Column("latency"),
        tables.Column("ratio", figures=True),
        tables.Column("95 % interval"),
        *(tables.Column(FIGURES[name], figures=True, spare=name == "map50") for name in figures),
        *(tables.Column(f"{FIGURES[name]}'s 95 %", spare=2 + (name == "map50")) for name in ranges),
    )
    click.echo(f"run {printable(run)}: against {printable(baseline)} on the same board")
    click.echo()
    several = _several_models(compared)
    cells = [_cells(one, several, figures, ranges) for one in compared]
    shown = tables.show(tables.console(), columns, cells)
    hidden = [name for at, name in enumerate(ranges, len(columns) - len(ranges)) if at not in shown]
    for line in (*_hidden_ranges(compared, hidden), *_footnotes(baseline, compared)):
        click.echo(printable(line))


def _accuracy_columns(compared: Sequence[Compared]) -> tuple[list[str], list[str]]:
    """Which differences of accuracy the table has, and which of them have an interval."""
    found = [one.verdict.accuracy for one in compared if one.verdict and one.verdict.accuracy]
    figures = [name for name in _SHOWN if any(getattr(one, name) is not None for one in found)]
    ranges = [name for name in _SHOWN if any(name in one.intervals for one in found)]
    return figures or ["map50", "map50_95"], ranges


def _range(verdict: Verdict | None, name: str) -> str:
    found = verdict.accuracy.intervals.get(name) if verdict and verdict.accuracy else None
    return "-" if found is None else f"{found.low:+.3f} to {found.high:+.3f}"


def _several_models(compared: Sequence[Compared]) -> bool:
    return len({one.row.model for one in compared}) > 1


def _named(one: Compared, several: bool, variant: str | None = None) -> str:
    """Board and variant, with the model where there are several."""
    name = variant or one.row.variant
    return f"{one.row.board} {one.row.model}/{name}" if several else f"{one.row.board} {name}"


def _hidden_ranges(compared: Sequence[Compared], names: Sequence[str]) -> Iterator[str]:
    """A line for each interval whose column had no room."""
    several = _several_models(compared)
    for one in compared:
        known = [(name, _range(one.verdict, name)) for name in names]
        words = [f"{FIGURES[name]} {found}" for name, found in known if found != "-"]
        if words:
            yield f"{_named(one, several)}: 95 % interval of {', '.join(words)}"


def _cells(
    one: Compared, several_models: bool, figures: Sequence[str], ranges: Sequence[str]
) -> list[str]:
    row, verdict = one.row, one.verdict
    ratio = verdict.latency if verdict else None
    accuracy = verdict.accuracy if verdict else None
    word, interval = "not comparable", "-"
    if ratio is not None and ratio.low is not None and ratio.high is not None:
        interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
        word = "faster" if ratio.high < 1 else "slower" if ratio.low > 1 else "no difference shown"
    cells = [
        row.board,
        f"{row.model}/{row.variant}" if several_models else row.variant,
        word,
        "-" if ratio is None else f"{ratio.value:.3f}",
        interval,
        *(_signed(getattr(accuracy, name) if accuracy else None) for name in figures),
        *(_range(verdict, name) for name in ranges),
    ]
    return [printable(cell) for cell in cells]


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _footnotes(baseline: str, compared: Sequence[Compared]) -> Iterator[str]:
    """Once each: on what accuracy was measured, what is not comparable and why, notes."""
    verdicts = [one.verdict for one in compared if one.verdict is not None]
    if any(verdict.latency for verdict in verdicts):
        yield "ratio: p50 over that of the baseline, paired by block; below 1 is faster"
    accuracies = [verdict.accuracy for verdict in verdicts if verdict.accuracy]
    for found in dict.fromkeys((one.dice is None, one.on) for one in accuracies):
        yield f"{'mAP' if found[0] else 'Dice, IoU'}: difference to the baseline on {found[1]}"
    if any(one.intervals for one in accuracies):
        yield "95 % of a difference: images drawn anew with replacement, the same for both"
    for why in dict.fromkeys(one.no_interval for one in accuracies if one.no_interval):
        yield f"no interval of an accuracy: {why}"
    several = _several_models(compared)
    lines = [line for one in compared for line in _amiss(baseline, one, several)]
    if any("not comparable" in line for line in lines):
        yield "A is the variant, B the baseline:"
    yield from dict.fromkeys(lines)


def _amiss(baseline: str, one: Compared, several: bool) -> Iterator[str]:
    names = {"A: ": _named(one, several), "B: ": _named(one, several, baseline)}
    if one.verdict is None:
        yield f"{names['A: ']}: {one.problem}"
        return
    for reason in one.verdict.latency_reasons:
        yield f"{names['A: ']}: latency not comparable because {reason.message}"
    for reason in one.verdict.accuracy_reasons:
        yield f"{names['A: ']}: accuracy not comparable because {reason.message}"
    for note in one.verdict.notes:
        of_board = note[3:].startswith(f"{one.row.board} ")
        yield note[3:] if of_board else f"{names[note[:3]]}: {note[3:]}"

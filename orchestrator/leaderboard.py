"""The final table of a run, from stored rows only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from rich.text import Text

from orchestrator.tables import NONE, Column, show
from orchestrator.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from results.queries import LeaderboardRow

_MEGA: Final = 1e6
_THROTTLE_BITS: Final = ((1, "under-voltage"), (2, "capped clock"), (4, "throttled"), (8, "hot"))

_COLUMNS: Final = (
    Column("board"),
    Column("variant"),
    Column("MB", figures=True),
    Column("p50 ms", figures=True),
    Column("p90 ms", figures=True, spare=2),
    Column("p99 ms", figures=True),
    Column("FPS", figures=True, spare=1),
    Column("mAP50", figures=True),
    Column("mAP50-95", figures=True),
    Column("°C", figures=True),
    Column("ratio", figures=True),
    Column("95 % interval", spare=4),
    Column("samples", figures=True, spare=3),
)


def show_leaderboard(out: Console, rows: Sequence[LeaderboardRow]) -> None:
    """Print a run's final table and, below it, what its figures mean and what is amiss."""
    if not rows:
        out.print("No trial is stored.")
        return
    show(out, _COLUMNS, [_cells(row, _is_several(rows)) for row in rows])
    for line in _notes(rows):
        out.print(Text(line, style="dim"), soft_wrap=True)


def milliseconds(value: float | None) -> str:
    """Three significant digits at least; '-' where there are too few samples to say."""
    if value is None:
        return NONE
    return f"{value:.{_decimals(value)}f}"


def _rate(value: float | None) -> str:
    return NONE if value is None else f"{value:.{max(0, _decimals(value) - 1)}f}"


def share(value: float | None) -> str:
    """A figure of 0..1 with three decimals."""
    return NONE if value is None else f"{value:.3f}"


def _decimals(value: float) -> int:
    """So many that three digits are significant, at most three."""
    for decimals, limit in ((3, 1.0), (2, 100.0), (1, 1000.0)):
        if value < limit:
            return decimals
    return 0


def _is_several(rows: Sequence[LeaderboardRow]) -> bool:
    """Whether a row needs its model's name to be told from the others."""
    return len({row.model for row in rows}) > 1


def _cells(row: LeaderboardRow, several_models: bool) -> list[str]:
    ratio = row.ratio
    interval = NONE
    if ratio is not None and ratio.low is not None and ratio.high is not None:
        interval = f"{ratio.low:.2f} to {ratio.high:.2f}"
    cells = [
        f"{row.board} (emulated)" if row.emulated else row.board,
        f"{row.model}/{row.variant}" if several_models else row.variant,
        f"{row.size_bytes / _MEGA:.2f}",
        milliseconds(row.p50_ms),
        milliseconds(row.p90_ms),
        milliseconds(row.p99_ms),
        _rate(row.fps),
        share(row.map50),
        share(row.map50_95),
        NONE if row.temp_max_c is None else f"{row.temp_max_c:.0f}",
        NONE if ratio is None else f"{ratio.value:.2f}",
        interval,
        str(row.n or 0),
    ]
    return [printable(cell) for cell in cells]


def _notes(rows: Sequence[LeaderboardRow]) -> Iterator[str]:
    models = sorted({row.model for row in rows})
    threads = sorted({f"{row.board} {row.threads}" for row in rows})
    if len(models) == 1:
        yield f"model {printable(models[0])}; threads: {printable(', '.join(threads))}"
    else:
        yield f"threads: {printable(', '.join(threads))}"
    yield from _scored(rows)
    if any(row.ratio is not None for row in rows):
        yield "ratio: p50 to that of fp32 on the same board, block by block; below 1 is faster"
    for row in rows:
        yield from (f"{printable(row.board)} {printable(row.variant)}: {w}" for w in _amiss(row))


def _scored(rows: Sequence[LeaderboardRow]) -> Iterator[str]:
    """On what the accuracy was measured; one line where it is the same for all rows."""
    sets: dict[str, list[str]] = {}
    for row in rows:
        if row.eval_set is not None:
            where = f"{row.eval_set} {row.eval_split}, {row.eval_images} images"
            on = f"{where}, inference on the {row.eval_place}"
            sets.setdefault(on, []).append(f"{row.board} {row.variant}")
    for on, names in sets.items():
        whose = "" if len(sets) == 1 else f" ({', '.join(names)})"
        yield printable(f"mAP: {on}{whose}")


def _amiss(row: LeaderboardRow) -> Iterator[str]:
    if row.unfinished:
        yield f"{row.unfinished} of {row.unfinished + row.trials} trials did not finish"
    if row.short_trials:
        yield f"the time cap ended {row.short_trials} of {row.trials} trials early"
    if row.throttled:
        yield ", ".join(name for bit, name in _THROTTLE_BITS if row.throttled & bit)
